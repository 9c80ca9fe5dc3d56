"""Where people decide which rows are trained on: the rows that wait one after another, with the model's reviews.

This is the one view that writes. A form carries a token of this server's process and of its round, beside the check of
its origin that every POST passes, so that no page of somebody else can decide in a person's name.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from lance_assets.browse.contract import Asked as Request
from lance_assets.browse.contract import Page, View, Way
from lance_assets.browse.mistakes import BadQueryError, NotThereError
from lance_assets.rounds.deciding.asked import find_waiting, list_asked
from lance_assets.rounds.deciding.decisions import Ledger, decide, find_scale, hash_text, keep_decisions, read_ledger
from lance_assets.rounds.deciding.exchange import know_rows
from lance_assets.rounds.plan import Plan, asks_people
from lance_assets.rounds.round import Round

_SECRET = secrets.token_bytes(32)
"""Of this process: a form that was served before a restart has to be opened again."""


def make_token(experiment: str, round_key: str) -> str:
    """What a form of a round carries to show that this process served it."""
    return hmac.new(_SECRET, f"{experiment} {round_key}".encode(), hashlib.sha256).hexdigest()


def answer(request: Request) -> Page | Response:
    """The next row, or what follows from a form."""
    return take_decision(request) if request.form else show_row(request)


def show_row(request: Request) -> Page:
    """The row that the address names, or else the next one that waits."""
    return _show(request, typed={}, mistake=None)


def take_decision(request: Request) -> Page | Response:
    """Keep a decision and lead to the next row; with a mistake in it the form comes back as it was typed."""
    typed = {name: values[-1].replace("\r\n", "\n") for name, values in request.form.items()}
    token = make_token(request.experiment, request.round_key)
    if not hmac.compare_digest(typed.get("token", "").encode(), token.encode()):
        raise BadQueryError("this form was served before the page was started again; go back, reload it and decide")
    plan, reviewed = _find_plan(request), _open(request).read("reviewed_set")
    known = know_rows(request.experiment, {request.round_key: reviewed})
    key, action = typed.get("key", ""), typed.get("action", "")
    if key not in known.rows:
        raise BadQueryError(f"key: {request.round_key} has no such row any more; it was made again since")
    row, score = known.rows[key], typed.get("score", "").strip()
    try:
        decision = decide(
            row["prompt"],
            row["completion"],
            action,
            who=typed.get("who", ""),
            scale=find_scale(plan.settings.parameters),
            # The text box and the number are there whatever is decided.
            edited=typed.get("edited", "") if action == "edit" else None,
            score=_read_score(score) if score and action in ("edit", "score") else None,
            note=typed.get("note", ""),
        )
    except ValueError as error:
        return _show(request, typed=typed, mistake=str(error))
    keep_decisions(request.shelf.platform.root, request.experiment, [decision])
    query = urlencode({"who": decision.who, "after": key})
    return RedirectResponse(f"/e/{request.experiment}/{request.round_key}/decide?{query}", status_code=303)


def _read_score(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"score must be a number, got {text[:40]!r}") from None


def _find_plan(request: Request) -> Plan:
    plan = request.shelf.find_plan(request.experiment)
    if plan is None:
        raise NotThereError(
            f"the file of {request.experiment} is gone or broken, so that nobody is asked about its rows"
        )
    return plan


def _open(request: Request) -> Round:
    return Round(_find_plan(request), request.shelf.platform, request.round_key, lambda _: None)


def _show(request: Request, *, typed: Mapping[str, str], mistake: str | None) -> Page:
    plan, key = _find_plan(request), request.round_key
    told = None
    if not asks_people(plan):
        told = "Nobody is asked about rows of this experiment. human_review in its file may be all, or 'sample 20'."
    elif not request.shelf.has(request.experiment, key, "reviewed_set"):
        told = f"{key} has no reviewed rows yet."
    content: dict[str, Any] = {"told": told, "mistake": mistake, "row": None, "typed": typed}
    if told is not None:
        return Page("deciding.html", f"Decide about {key}", content)
    root = request.shelf.platform.root
    ledger = read_ledger(root, request.experiment)
    asked = list_asked(_open(request), ledger)
    rows = {hash_text(row["prompt"], row["completion"]): row for row in asked.rows.to_dicts()}
    waiting = [hash_text(*texts) for texts in asked.open_rows.select("prompt", "completion").iter_rows()]
    # The links to other rounds keep the query, and a row of this one is none of theirs.
    named = next((key for key in (typed.get("key"), request.get("row")) if key in rows), None)
    chosen = named or _choose_next(list(rows), waiting, request.get("after"))
    content |= {
        **{"num_waiting": len(waiting), "num_rows": len(rows)},
        **{"scale": find_scale(plan.settings.parameters), "token": make_token(request.experiment, key)},
        **{"who": typed.get("who") or request.get("who") or "", "key": chosen},
        "waits": find_waiting(root, request.experiment, key).exists(),
        "decided": _list_decided(rows, ledger),
    }
    if chosen is not None:
        row = rows[chosen]
        reviews = zip(row["reviews"] or [], row["scores"] or [], row["unscored_reasons"] or [], strict=False)
        content |= {"row": row, "reviews": list(reviews), "decision": ledger.find(row["prompt"], row["completion"])}
    return Page("deciding.html", f"Decide about {key}", content, script="deciding.js")


def _choose_next(keys: list[str], waiting: list[str], after: str | None) -> str | None:
    """The first row that waits behind another one, or else the first that waits at all."""
    if not waiting:
        return None
    place = keys.index(after) if after in keys else -1
    behind = [key for key in waiting if keys.index(key) > place]
    return behind[0] if behind else waiting[0]


def _list_decided(rows: Mapping[str, Mapping[str, Any]], ledger: Ledger) -> list[dict[str, Any]]:
    """The rows that were decided, with what counts of each."""
    found = {key: ledger.find(row["prompt"], row["completion"]) for key, row in rows.items()}
    return [{"key": key, "decision": one, "row": rows[key]} for key, one in found.items() if one is not None]


VIEW = View(
    "decide",
    "Decide",
    "Which rows may be trained on?",
    (Way("/e/{experiment}/{round_key}/decide", answer, methods=("GET", "POST")),),
)
