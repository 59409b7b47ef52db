"""How the log looks: for a person at a console, or as JSON for a machine."""

import logging
import sys

import structlog

from trio_signal.config import Settings


def configure_logging(settings: Settings) -> None:
    """Send the whole process's log to standard error, one line an entry."""
    renderer: structlog.typing.Processor
    if settings.log_format == "json":
        renderer = structlog.processors.JSONRenderer()
        tracebacks: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # Not the one with the values of local variables: a password may be among them.
            exception_formatter=structlog.dev.plain_traceback,
        )
        tracebacks = []
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *tracebacks,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    for library in ("httpx", "httpcore"):  # they tell of each request, with its URL
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
