"""The pages for browsers, and the client that they load."""

import mimetypes
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

import jinja2
from msgspec import Struct
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound

from trio_signal.sharing import Sharing
from trio_signal.web.bodies import Unchanging, json_answer

PAGES = ("index", "call", "broadcast", "watch", "announcements", "inspect")
_KINDS = (".js", ".css", ".svg")


#: Pages run only our own script files, connect only to their own server, and cannot be framed.
PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            *("default-src 'none'", "script-src 'self'", "style-src 'self'"),
            *("img-src 'self' data:", "media-src 'self' blob:", "connect-src 'self'"),
            *("form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"),
        )
    ),
    "Referrer-Policy": "same-origin",  # without a referrer, forms would send the origin `null`
}


def _content_type(name: str) -> str:
    content_type, _ = mimetypes.guess_type(name)
    return f"{content_type}; charset=utf-8"


def add_pages(app: QuartTrio, sharing: Sharing | None = None, card: Struct | None = None) -> None:
    """Add the routes. `sharing` adds links for phones to the pages.

    `card` describes the server to programs that accept JSON.
    """
    files, shared = _make_files(sharing)

    def answer(name: str, known: Mapping[str, Unchanging] = files) -> Response:
        if name not in known:
            raise NotFound
        return known[name].answer()

    @app.get("/")
    async def index() -> Response:
        kinds = request.accept_mimetypes
        if card is not None and kinds["application/json"] > kinds["text/html"]:
            return json_answer(card)
        return answer("index.html")

    @app.get("/admin")
    async def admin() -> Response:
        return answer("admin.html")

    @app.get("/demo/<name>")
    async def demo(name: str) -> Response:
        return answer(name if name in files else f"{name}.html")

    @app.get("/client/<name>")
    async def client(name: str) -> Response:
        return answer(name, shared)


@cache
def _make_files(
    sharing: Sharing | None,
) -> tuple[Mapping[str, Unchanging], Mapping[str, Unchanging]]:
    """The pages with the files that they load, and the files that other sites load from here.

    Cached, as tests start several servers in one process.
    """
    folder = resources.files("trio_signal") / "browser"
    files = _read(folder)
    # For other sites: the client, and the elements with the files that they need.
    shared = _read(folder / "ui") | {"trio-signal.js": files["trio-signal.js"]}
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("trio_signal", "browser"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (*PAGES, "admin"):
        text = templates.get_template(f"{name}.html").render(
            name=name, demos=PAGES[1:], sharing=sharing
        )
        page_type = _content_type(f"{name}.html")
        files[f"{name}.html"] = Unchanging(text.encode(), page_type, PAGE_HEADERS)
    return files, shared


def _read(folder: Traversable) -> dict[str, Unchanging]:
    """The files of a folder that browsers load, by name."""
    return {
        file.name: Unchanging(file.read_bytes(), _content_type(file.name))
        for file in folder.iterdir()
        if file.name.endswith(_KINDS)
    }
