"""The pages for browsers, and the client that they use."""

import mimetypes
from importlib import resources

import jinja2
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound

PAGES = ("index", "broadcast", "watch", "call", "announcements", "inspect")


def add_pages(app: QuartTrio) -> None:
    """Add the routes. The pages are made here, once."""
    folder = resources.files("trio_signal") / "browser"
    files = {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.name.endswith((".js", ".css", ".svg"))
    }
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("trio_signal", "browser"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in PAGES:
        text = templates.get_template(f"{name}.html").render(name=name, demos=PAGES[1:])
        files[f"{name}.html"] = text.encode()

    def page(name: str) -> Response:
        if name not in files:
            raise NotFound
        content_type, _ = mimetypes.guess_type(name)
        return Response(files[name], content_type=f"{content_type}; charset=utf-8")

    @app.get("/")
    async def index() -> Response:
        return page("index.html")

    @app.get("/demo/<name>")
    async def demo(name: str) -> Response:
        return page(name if name in files else f"{name}.html")

    @app.get("/client/trio-signal.js")
    async def client() -> Response:
        return page("trio-signal.js")
