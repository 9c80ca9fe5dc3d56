"""Makes HTML of a page: the templates, what they may call, and the way around that every page has."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lance_assets.browse.contract import ALL_ROUNDS, Asked, Page, View
from lance_assets.browse.signs import MAX_SHOWN, show_as_stored

FOLDER = Path(__file__).parent
"""Where templates and the stylesheet lie."""


def build_environment() -> Environment:
    """The templates: everything is escaped, and a name that a page was not given is an error."""
    # An own template could reach Python, but templates are of this package alone: data never becomes a template.
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "as_stored": show_as_stored,
        "as_listed": lambda text: show_as_stored(text, limit=MAX_SHOWN),
        "number": format_number,
        "count": lambda value: f"{value:,}",
        "segment": lambda text: quote(str(text), safe=""),
        "words": lambda name: str(name).replace("_", " "),
    }
    environment.globals |= {"bar": draw_bar, "story": link_to_story, "is_text": lambda value: isinstance(value, str)}
    return environment


def format_number(value: float | None, places: int = 3) -> str:
    """A number with the digits that mean something; a dash for none.

    >>> format_number(9.0), format_number(0.46899), format_number(None)
    ('9', '0.469', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        # A number as long as a sampling seed is copied and not read.
        return f"{value:,}" if abs(value) < 10**15 else str(value)
    if not math.isfinite(value) or abs(value) >= 1e15:
        return f"{value:g}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.{places}f}".rstrip("0").rstrip(".") if abs(value) >= 10**-places else f"{value:.2g}"


def draw_bar(share: float, kind: str = "", label: str = "") -> Markup:
    """A bar of a share in [0, 1] as SVG, whose width is an attribute: the page's policy allows no style in a tag."""
    width = max(0.0, min(1.0, share)) * 100
    return Markup(
        '<svg class="bar {}" role="img" aria-label="{}" preserveAspectRatio="none" viewBox="0 0 100 8">'
        '<rect class="ground" width="100" height="8"/><rect class="full" width="{:.2f}" height="8"/></svg>'
    ).format(kind, label or f"{width:.0f}%", width)


def link_to_story(experiment: str, row_id: str | None) -> Markup:
    """A row's id as a link to its story."""
    if row_id is None:
        return Markup('<span class="none">none</span>')
    return Markup('<a class="id" href="/e/{}/row/{}">{}</a>').format(experiment, quote(row_id, safe=""), row_id)


def find_way_around(view: View, asked: Asked, views: Sequence[View], query: str) -> dict[str, Any]:
    """The tabs of a round, the other rounds of the experiment, and what leads back to the start."""
    parts = asked.parts
    around: dict[str, Any] = {"crumbs": [("/", "Experiments")], "tabs": [], "rounds": [], "view": view}
    around["views"] = views
    around |= {"experiment": None, "round_key": None}
    if "experiment" not in parts:
        return around
    experiment = asked.experiment
    around["experiment"] = experiment
    around["crumbs"].append((f"/e/{experiment}", experiment))
    if "round_key" not in parts:
        return around
    key = around["round_key"] = asked.round_key
    is_all = key == ALL_ROUNDS
    around["crumbs"].append((f"/e/{experiment}/{key}{'/rows' if is_all else ''}", "all rounds" if is_all else key))
    around["tabs"] = [
        (f"/e/{experiment}/{key}/{each.name}", each.title, each.question, each.name == view.name)
        for each in views
        if each.has_tab and (not is_all or any(way.takes_all_rounds for way in each.ways))
    ]
    (way,) = [way for way in view.ways if way.path == parts["way"]]
    others = asked.shelf.list_rounds(experiment) + ([ALL_ROUNDS] if way.takes_all_rounds else [])
    fields = {name: value for name, value in parts.items() if name != "way"}
    for other in others:
        address = way.path.format(**(fields | {"round_key": other})) + (f"?{query}" if query else "")
        if "table" in fields and other != ALL_ROUNDS and not asked.shelf.has(experiment, other, fields["table"]):
            address = f"/e/{experiment}/{other}/{view.name}"
        around["rounds"].append((address, other, other == key))
    return around


def render(environment: Environment, page: Page, around: Mapping[str, Any]) -> str:
    """A page as HTML."""
    template = environment.get_template(page.template)
    return template.render(title=page.title, script=page.script, **around, **page.content)
