"""The `webhooks` commands."""

from typing import Annotated

import typer

from trio_signal.cli.usage import Command, Commands, examples, need_command, whole

app = typer.Typer(cls=Commands, help="Try out webhooks.", invoke_without_command=True)


@app.callback()
def main(context: typer.Context) -> None:
    """Try out webhooks."""
    need_command(context)


@app.command(
    cls=Command,
    epilog=examples("webhooks listen --port 9000"),
)
def listen(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            parser=whole(0, 65535), metavar="PORT", help="Port to listen on; 0 picks a free one."
        ),
    ] = 9000,
    secret: Annotated[
        str | None,
        typer.Option(help="Secret that signs them.  [the first of TRIO_SIGNAL_API_KEYS]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Receive webhooks, check their signatures, and print them.

    Set TRIO_SIGNAL_WEBHOOK_URLS=http://127.0.0.1:9000 for the server.
    """
    from trio_signal.cli import listen as listening

    listening.listen(host, port, secret, as_json=as_json)
