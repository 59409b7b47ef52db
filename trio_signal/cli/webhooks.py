"""The commands of webhooks as they are typed."""

from typing import Annotated

import typer

from trio_signal.cli.usage import Command, Commands, need_command, whole

app = typer.Typer(cls=Commands, help="What a site's backend is told.", invoke_without_command=True)


@app.callback()
def main(context: typer.Context) -> None:
    """What a site's backend is told."""
    need_command(context)


@app.command(
    cls=Command,
    epilog="Example: trio-signal webhooks listen --port 9000, and TRIO_SIGNAL_WEBHOOK_URLS="
    "http://127.0.0.1:9000 for the server.",
)
def listen(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            parser=whole(0, 65535), metavar="PORT", help="Port to listen on; 0 picks one."
        ),
    ] = 9000,
    secret: Annotated[
        str | None,
        typer.Option(help="What signs them.  [the first of TRIO_SIGNAL_API_KEYS]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Receive webhooks for trying out: check their signatures, and print them."""
    from trio_signal.cli import listen as listening

    listening.listen(host, port, secret, as_json=as_json)
