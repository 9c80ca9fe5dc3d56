"""The application that serves the page: routes made of the views, headers, and a page for each mistake.

Written on Starlette, Jinja and polars, which the Dagster UI and the tables bring already. What else was weighed, with
figures, is in docs/browse.md.

What it is protected by, since texts of models and strangers are shown and a browser has other pages open:

* a Host header that is not this machine's name is refused, so that no name of a stranger's page can be made to lead
  here (DNS rebinding);
* a Content-Security-Policy without any script, and with styles and pictures from here alone; the page on which people
  decide may run one script of this server, for its keys;
* a POST is taken only from a page that was served here.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import parse_qs, urlencode

import polars as pl
from jinja2 import Environment
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lance_assets.browse.contract import ALL_ROUNDS, Asked, Page, View, Way
from lance_assets.browse.mistakes import BadQueryError, NotThereError
from lance_assets.browse.rendering import FOLDER, build_environment, find_way_around, render
from lance_assets.browse.shelf import Shelf
from resources.stores.files import validate_name, validate_round_key
from resources.stores.tables import MissingTableError

HOSTS = ("localhost", "127.0.0.1")
"""The names under which this machine reaches itself."""
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
MAX_FORM = 8 * 2**20
"""Bytes of a form at most; a row that is edited is one text."""


class Protected:
    """Adds `HEADERS` to every answer that does not have them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does, with the headers."""

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] += [header for header in added if header[0] not in given]
            await send(message)

        await self.app(scope, receive, send_protected)


def build_app(shelf: Shelf, views: Sequence[View]) -> Starlette:
    """The application on some tables.

    Args:
        shelf: reads them.
        views: in the order of the tabs.
    """
    environment = build_environment()
    # An address with a word in a place goes before one that takes anything there.
    ways = sorted(((view, way) for view in views for way in view.ways), key=lambda each: each[1].path.count("{"))
    routes = [
        Route(way.path, _serve(view, way, views, shelf, environment), methods=[*way.methods]) for view, way in ways
    ]
    static = Mount("/static", StaticFiles(directory=FOLDER / "static"))

    async def find_nothing(request: Request, _: Exception) -> Response:
        text = f"there is no page {request.url.path!r}; begin at the list of experiments"
        return HTMLResponse(_explain(environment, 404, text), status_code=404)

    return Starlette(
        routes=[*routes, static],
        middleware=[
            Middleware(Protected),
            Middleware(TrustedHostMiddleware, allowed_hosts=[*HOSTS], www_redirect=False),
        ],
        exception_handlers={404: find_nothing},
    )


def _serve(
    view: View, way: Way, views: Sequence[View], shelf: Shelf, environment: Environment
) -> Callable[[Request], Awaitable[Response]]:
    """What answers one address of a view."""

    async def serve(request: Request) -> Response:
        form: Mapping[str, Sequence[str]] = {}
        if request.method == "POST":
            if (mistake := _find_stranger(request)) is not None:
                return HTMLResponse(_explain(environment, 403, mistake), status_code=403)
            body = await request.body()
            if len(body) > MAX_FORM:
                return HTMLResponse(_explain(environment, 413, "the form is larger than 8 MiB"), status_code=413)
            form = parse_qs(body.decode(errors="replace"), keep_blank_values=True)
        parts = {name: str(value) for name, value in request.path_params.items()} | {"way": way.path}
        query = parse_qs(request.url.query, keep_blank_values=False)
        return await run_in_threadpool(answer, Asked(shelf, parts, query, form))

    def answer(asked: Asked) -> Response:
        try:
            check_place(asked, way)
            found = way.answer(asked)
            if isinstance(found, Response):
                return found
            query = urlencode({name: values[-1] for name, values in asked.query.items() if name != "page"})
            page = HTMLResponse(render(environment, found, find_way_around(view, asked, views, query)))
            if found.script is not None:
                page.headers["Content-Security-Policy"] = f"{POLICY}; script-src 'self'"
            return page
        except (NotThereError, MissingTableError) as error:
            return HTMLResponse(_explain(environment, 404, str(error)), status_code=404)
        except BadQueryError as error:
            return HTMLResponse(_explain(environment, 400, str(error)), status_code=400)
        except (ValueError, OSError, pl.exceptions.PolarsError) as error:
            return HTMLResponse(_explain(environment, 500, str(error)), status_code=500)

    return serve


def check_place(asked: Asked, way: Way) -> None:
    """Check the experiment and the round that an address names.

    Raises:
        NotThereError: a name that is not one, or that has no tables.
    """
    if "experiment" not in asked.parts:
        return
    known = asked.shelf.list_experiments()
    try:
        validate_name(asked.experiment, what="experiment")
        if "round_key" in asked.parts and asked.round_key != ALL_ROUNDS:
            validate_round_key(asked.round_key)
    except ValueError as error:
        raise NotThereError(str(error)) from None
    if asked.experiment not in known:
        raise NotThereError(f"no experiment {asked.experiment!r} has tables; those that have: {', '.join(known)}")
    if "round_key" not in asked.parts:
        return
    rounds = asked.shelf.list_rounds(asked.experiment)
    if asked.round_key not in [*rounds, *([ALL_ROUNDS] if way.takes_all_rounds else [])]:
        raise NotThereError(f"{asked.experiment} has no round {asked.round_key!r}; it has {', '.join(rounds)}")


def _find_stranger(request: Request) -> str | None:
    """What is said to a POST that a page of somebody else sent; None for one of ours."""
    here = f"{request.url.scheme}://{request.headers['host']}"
    origin = request.headers.get("origin")
    if origin == here:
        return None
    return f"a form must be sent from a page at {here}, and this one comes from {origin or 'nowhere that is named'}"


TITLES = {
    400: "This address asks for what there is not",
    403: "This form was not sent from here",
    404: "There is no such page",
    413: "This form is too large",
    500: "This cannot be read",
}


def _explain(environment: Environment, status: int, text: str) -> str:
    """The page of a mistake."""
    view = View("mistake", TITLES[status], "", ())
    around = {"crumbs": [("/", "Experiments")], "tabs": [], "rounds": [], "view": view, "views": ()}
    around |= {"experiment": None, "round_key": None}
    return render(environment, Page("mistake.html", TITLES[status], {"text": text}), around)
