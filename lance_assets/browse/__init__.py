"""The page on which a person looks at rounds: rows, stories, funnels, seeds, flips, disagreements, comparisons.

`lance browse` serves it on this machine. A page is HTML that the server renders from the Parquet tables, with one
stylesheet: it needs no network, works by keyboard, and a text of the data can run nothing. No view needs a script; the
one on which people decide has one, for its keys.

How to add a view, in three steps:

1. A module in `views/` with a function `answer(asked: Asked) -> Page` and a `View` that names it (`contract.py`).
   `asked` has the experiment and the round, which were checked, the query, the form of a POST, and `asked.shelf`,
   which reads tables lazily (`shelf.py`). A mistake in the query is a `mistakes.BadQueryError`, and the app makes a
   page of it.
2. A template in `templates/` that extends `base.html`. Jinja escapes everything; `{{ text | as_stored }}` shows a text
   of the data exactly as stored, with invisible signs marked.
3. Its name in `views.VIEWS`, in the order of the tabs. The app makes the routes and the tab.

A way of a view may take POST (`methods=("POST",)`). Such a request is refused unless its page was served here, and its
fields are in `asked.form`. `views/deciding.py` alone takes one, and asks for a token of its own
beside that; the others read, and write nothing.
"""
