"""The pages for browsers, and the client that they use."""

import mimetypes
from importlib import resources

from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound


def add_pages(app: QuartTrio) -> None:
    """Add the routes."""
    files = {
        file.name: file.read_bytes()
        for file in (resources.files("trio_signal") / "browser").iterdir()
        if file.name.endswith((".html", ".js", ".css", ".svg"))
    }

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
