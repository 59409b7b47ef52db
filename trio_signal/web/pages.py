"""The pages for browsers, and the client that they use."""

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


#: Nothing runs in a page that is not in a file of ours, it speaks to nobody but its own server,
#: and is shown in no other page.
PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            *("default-src 'none'", "script-src 'self'", "style-src 'self'"),
            *("img-src 'self' data:", "media-src 'self' blob:", "connect-src 'self'"),
            *("form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"),
        )
    ),
    "Referrer-Policy": "same-origin",  # with none at all, forms would come from origin `null`
}


def _content_type(name: str) -> str:
    content_type, _ = mimetypes.guess_type(name)
    return f"{content_type}; charset=utf-8"


def add_pages(app: QuartTrio, sharing: Sharing | None = None, card: Struct | None = None) -> None:
    """Add the routes. The pages invite phones if those can come.

    `card` says what server this is, to programs that ask for JSON.
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
    """The pages with what they load, and what other sites load from here.

    Made once, also if there are several servers in this process, as in tests.
    """
    folder = resources.files("trio_signal") / "browser"
    files = _read(folder)
    # What other sites load from here as well: the client, and the elements with what they need.
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
    """The files of a folder that browsers load, by their names."""
    return {
        file.name: Unchanging(file.read_bytes(), _content_type(file.name))
        for file in folder.iterdir()
        if file.name.endswith(_KINDS)
    }
