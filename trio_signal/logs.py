"""Logs: text for people, or JSON for machines."""

import logging
import re
import sys
from collections.abc import Callable, Iterable

import msgspec
import structlog

from trio_signal.clock import utc_text
from trio_signal.config import Settings

#: Headers in which platforms pass a request's id. The first one present counts.
REQUEST_ID_HEADERS = (
    *("X-Request-ID", "X-Railway-Request-Id", "Fly-Request-Id", "CF-Ray"),
    *("X-Amzn-Trace-Id", "X-Cloud-Trace-Context", "traceparent"),
)
#: Maximum bytes of a line. It contains text from clients, and each connection writes a few.
MAX_LINE = 16_384
#: Maximum characters of a name in a list, and maximum bytes of the list.
MAX_LISTED_NAME = 64
MAX_LIST = 1024
#: Anybody can send such a header, so it has to look like an id.
_REQUEST_ID = re.compile("[!-~]{1,128}")


def configure_logging(settings: Settings) -> None:
    """Send the whole process's log to standard error, one line for each entry.

    The `extra` fields of an entry become fields of the line.
    """
    # The lines do not contain these; see "Optimization" in the documentation of `logging`.
    logging.logProcesses = logging.logThreads = logging.logMultiprocessing = False
    logging._srcfile = None  # documented there, too
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(settings))
    for library in ("httpx", "httpcore"):  # they log each request, with its URL
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)


class TextFormatter(structlog.stdlib.ProcessorFormatter):
    """Turns an entry into a line for people, of bounded length."""

    def __init__(self, *, colors: bool) -> None:
        """Use `colors` for a terminal."""
        super().__init__(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(
                    colors=colors,
                    # Names and ids come from clients: they must not begin a new line.
                    repr_native_str=True,
                    # Not the one that prints local variables, which may contain a password.
                    exception_formatter=structlog.dev.plain_traceback,
                ),
            ],
        )

    def format(self, record: logging.LogRecord) -> str:
        """The line; if it is too long, its middle is cut out."""
        return _cut(super().format(record), MAX_LINE)


class JsonFormatter(logging.Formatter):
    """Turns an entry into a JSON object of bounded length.

    structlog takes two and a half times as long for the same line, and each connection writes one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line; if it is too long, its values are cut."""
        fields: structlog.typing.EventDict = {"event": record.getMessage()}
        structlog.contextvars.merge_contextvars(None, "", fields)
        fields["level"], fields["logger"] = record.levelname.lower(), record.name
        for name, value in vars(record).items():
            if name not in _NOT_EXTRA:
                fields[name] = value
        fields["timestamp"] = utc_text(record.created)
        if record.stack_info:
            fields["stack_info"] = record.stack_info
        if record.exc_info and record.exc_info[0]:
            fields["exception"] = self.formatException(record.exc_info)
        line = msgspec.json.encode(fields, enc_hook=repr)
        if len(line) > MAX_LINE:
            # Each value is a text now. JSON writes some bytes as six: \u0000. Keys are short.
            share = (MAX_LINE // len(fields) - MAX_LISTED_NAME) // 6
            cut = {key: _cut(str(value), share) for key, value in fields.items()}
            line = msgspec.json.encode(cut)
        return line.decode()


#: The attributes of every entry, and those that formatters add.
_NOT_EXTRA = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def make_formatter(settings: Settings) -> logging.Formatter:
    """The formatter for this format."""
    if settings.log_format == "json":
        return JsonFormatter()
    return TextFormatter(colors=sys.stderr.isatty())


def list_names(names: Iterable[str]) -> list[str]:
    """As many of these names as fit into a line, each shortened; then an ellipsis."""
    listed: list[str] = []
    size = 0
    for name in names:
        name = name if len(name) <= MAX_LISTED_NAME else name[:MAX_LISTED_NAME] + "…"
        size += len(name.encode())
        if size > MAX_LIST:
            return [*listed, "…"]
        listed.append(name)
    return listed


def _cut(text: str, limit: int) -> str:
    """A text of at most so many bytes; the excess is cut out of its middle."""
    if len(text) <= limit // 4:  # no character has more than four bytes
        return text
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return text
    half = (limit - len("…".encode())) // 2
    return f"{data[:half].decode(errors='ignore')}…{data[-half:].decode(errors='ignore')}"


def find_request_id(get_all: Callable[[str], Iterable[str]]) -> str | None:
    """The id that a platform in front gave the request, from its headers; None if there is none."""
    for name in REQUEST_ID_HEADERS:
        for value in get_all(name):
            if _REQUEST_ID.fullmatch(value):
                return value
    return None
