"""A running server seen from outside: its rooms, and the events in one room."""

import os
import sys
from datetime import datetime

import msgspec
import trio
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trio_signal.cli.failing import fail, first_of, printable
from trio_signal.cli.remote import ask_pages
from trio_signal.cli.stopping import until_stopped
from trio_signal.client import (
    Answer,
    Candidate,
    Error,
    Event,
    Live,
    Message,
    Offer,
    Peer,
    PeerAway,
    PeerBack,
    PeerJoined,
    PeerLeft,
    Pong,
    StateChanged,
    Stopped,
    TokenExpiring,
    TokenRenewed,
    WentLive,
    open_client,
)
from trio_signal.clock import utc_now
from trio_signal.errors import TrioSignalError

#: Characters of a payload on a line.
_SHOWN = 200


class Room(Struct):
    """A room in the list."""

    id: str
    name: str
    created_at: str | None
    member_count: int
    thumbnail_url: str | None
    peers: int
    live: int


def rooms(url: str, token: str | None, as_json: bool) -> None:
    """List the rooms that have peers. Blocks."""
    found = [room for page in ask_pages(f"{url}/rooms", token, list[Room]) for room in page]
    if as_json:
        _write(msgspec.json.encode(found).decode())
    elif not found:
        _write("No room has peers.")
    else:
        _write(_render(_table(found)))


def _table(found: list[Room]) -> Table:
    table = Table("room", box=None, pad_edge=False, header_style="bold")
    for heading in ("users", "peers", "live"):
        table.add_column(heading, justify="right")
    for room in found:
        live = Text(str(room.live), style="red" if room.live else "")
        table.add_row(Text(printable(_title(room))), str(room.member_count), str(room.peers), live)
    return table


def _title(room: Room) -> str:
    return room.id if room.name == room.id else f"{room.id} ({room.name})"


def tail(url: str, room: str, token: str | None, username: str, as_json: bool) -> None:
    """Join a room, and print its events until Ctrl-C. Blocks."""
    try:
        trio.run(_tail, url, room, token, username, as_json)
    except* BrokenPipeError:
        # The reader of the pipe has closed it; without this, Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except* TrioSignalError as errors:
        fail(f"{url}: {first_of(errors)}")


async def _tail(url: str, room: str, token: str | None, username: str, as_json: bool) -> None:
    async with (
        until_stopped(),
        open_client(url, room=room, token=token, username=username) as client,
    ):
        async for event in client:
            _write(_as_json(event) if as_json else _render(line(event, datetime.now())))


def _as_json(event: Event) -> str:
    return msgspec.json.encode({"at": utc_now(), **msgspec.to_builtins(event)}).decode()


def line(event: Event, at: datetime) -> Text:
    """An event as text for people; control characters in names and data are removed."""
    word, style, words = _describe(event)
    text = Text.assemble((f"{at:%H:%M:%S}", "dim"), "  ", (word, style))
    if words:
        text.append(" " * (10 - len(word)) + printable(words))
    return text


def _describe(event: Event) -> tuple[str, str, str]:
    match event:
        case StateChanged(state="joined"):
            return "connected", "green", ""
        case StateChanged(reason=reason, code=code):
            return "waiting", "yellow", f"{reason} ({code})" if code else reason
        case PeerJoined(peer=peer):
            return "joined", "green", _name(peer)
        case PeerLeft(peer=peer):
            return "left", "dim", _name(peer)
        case PeerAway(peer=peer):
            return "away", "yellow", _name(peer)
        case PeerBack(peer=peer):
            return "back", "green", _name(peer)
        case WentLive(peer=Peer(live=Live(media_type=media_type)) as peer):
            return "live", "bold red", f"{_name(peer)}  {media_type}"
        case Stopped(peer=peer):
            return "stopped", "red", _name(peer)
        case Error(message=message):
            return "error", "yellow", message
        case TokenExpiring(expires_in=seconds):
            return "token", "yellow", f"expires in {seconds} s"
        case TokenRenewed(expires_in=seconds):
            return "token", "", f"good for {seconds} s"
        case Offer(offer=payload):
            return "offer", "cyan", f"{_sender(event)}  {_short(payload)}"
        case Answer(answer=payload):
            return "answer", "cyan", f"{_sender(event)}  {_short(payload)}"
        case Candidate(candidate=payload):
            return "candidate", "cyan", f"{_sender(event)}  {_short(payload)}"
        case Message(data=payload):
            return "message", "", f"{_sender(event)}  {_short(payload)}"
        case Pong(id=id_):
            return "pong", "", _short(id_)
        case _:
            return type(event).__name__, "", ""


def _name(peer: Peer) -> str:
    return f"{peer.username} ({peer.id})"


def _sender(event: Offer | Answer | Candidate | Message) -> str:
    return f"{event.username} ({event.sender})"


def _short(payload: object) -> str:
    text = msgspec.json.encode(payload).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _render(shown: Text | Table) -> str:
    """Render with the colours of standard output; long lines are not wrapped."""
    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as captured:
        console.print(shown, soft_wrap=True)
    return captured.get().rstrip("\n")


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
