"""For your site's backend: clients of the server API, blocking and `async`; checking webhooks.

::

    from trio_signal.server import ServerApi, verify_webhook

    with ServerApi("https://signal.example.com", SECRET) as api:
        for room in api.rooms(prefix="lesson-"):
            print(room.id, room.peers)

    event = verify_webhook(request.headers, request.get_data(), SECRET)

Refused calls raise ServerApiError, bad webhooks SignatureError. Exceptions of httpx are passed on.
"""

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct

from trio_signal.hooks import HookEvent, SignatureError, check_signature
from trio_signal.messages.states import ReplicaState

__all__ = [
    "AsyncServerApi",
    "HookEvent",
    "PeerDetail",
    "ReplicaState",
    "RoomDetail",
    "RoomSummary",
    "ServerApi",
    "ServerApiError",
    "SignatureError",
    "verify_webhook",
]

T = TypeVar("T")

#: The path of all calls.
PREFIX = "/api/v1/server"
#: Seconds for an answer.
TIMEOUT = 10.0


class RoomSummary(Struct):
    """A room, with its numbers of peers, users and live users."""

    id: str
    peers: int
    users: int
    live: int


class PeerDetail(Struct):
    """A peer in a room."""

    peer_id: str
    user_id: str
    username: str
    dialect: str
    live: bool
    joined_at: str
    replica: str
    #: `loopback`, `private` or `public`; `unknown` if its replica did not answer.
    address_class: str = "unknown"
    #: Whether it lost its connection, and may come back.
    away: bool = False


class RoomDetail(Struct):
    """A room and its peers. `seq` is the number of its last webhook, 0 if there was none.

    `total` counts all peers, and `found` those that match a search.
    """

    id: str
    peers: list[PeerDetail]
    locked: bool
    seq: int
    total: int = 0
    found: int = 0


class _Replicas(Struct):
    replicas: list[ReplicaState]


class _RoomPage(Struct):
    rooms: list[RoomSummary]
    next: str | None


class _Count(Struct):
    peers: int = 0
    removed: int = 0


class _Token(Struct):
    token: str


class _Detail(Struct):
    code: str
    message: str


class _Problem(Struct):
    error: _Detail


class ServerApiError(Exception):
    """The server refused a call. Rely on `status` and `code`; the message is for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code


def verify_webhook(headers: Mapping[str, str], body: bytes, secret: str) -> HookEvent:
    """Check a webhook's signature, and return its event. Raises SignatureError if it is not from
    your server.

    `body` is the unchanged body of the request. The names of `headers` may be in upper or lower
    case.
    """
    check_signature(headers, body, secret, time.time())
    try:
        return msgspec.json.decode(body, type=HookEvent)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SignatureError(f"the body is not an event: {error}") from None


def _room(room_id: str, *more: str) -> str:
    return "/".join(("", "rooms", *map(_segment, (room_id, *more))))


def _segment(id_: str) -> str:
    """An id in a path. httpx drops the segments `.` and `..`, and for `..` the one before it."""
    return quote(id_, safe="") if id_ not in (".", "..") else id_.replace(".", "%2E")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read(answer: httpx.Response, type_: type[T]) -> T:
    if answer.is_success:
        return msgspec.json.decode(answer.content, type=type_)
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem).error
    except msgspec.DecodeError:
        problem = _Detail("error", answer.reason_phrase)
    raise ServerApiError(answer.status_code, problem.code, problem.message)


def _client_arguments(url: str, key: str) -> dict[str, Any]:
    return {
        "base_url": url.rstrip("/") + PREFIX,
        "headers": {"Authorization": f"Bearer {key}"},
        "timeout": TIMEOUT,
    }


class ServerApi:
    """A blocking client of the server API. Use it as a context manager, or call `close`."""

    def __init__(self, url: str, key: str) -> None:
        """Take the server's URL, and an API key's secret. Does not connect yet."""
        self._http = httpx.Client(**_client_arguments(url, key))

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, type_: type[T], method: str, path: str, **more: Any) -> T:
        return _read(self._http.request(method, path, **more), type_)

    def rooms(self, prefix: str = "") -> Iterator[RoomSummary]:
        """List the rooms that have peers, by their ids, page after page."""
        cursor: str | None = ""
        while cursor is not None:
            params = {"prefix": prefix, "cursor": cursor}
            page = self._ask(_RoomPage, "GET", "/rooms", params=params)
            yield from page.rooms
            cursor = page.next

    def room(self, room_id: str) -> RoomDetail:
        """List the peers of a room."""
        return self._ask(RoomDetail, "GET", _room(room_id))

    def replicas(self) -> list[ReplicaState]:
        """List the replicas and their health, beginning with the one that answers."""
        return self._ask(_Replicas, "GET", "/replicas").replicas

    def send(self, room_id: str, data: Any, to: str | None = None) -> int:
        """Send any JSON to a room, or to one peer. Returns the number of receivers."""
        body = {"data": data, **_given(to=to)}
        return self._ask(_Count, "POST", _room(room_id, "messages"), json=body).peers

    def remove(
        self,
        room_id: str,
        peer_id: str,
        *,
        reason: str | None = None,
        ban_seconds: float | None = None,
    ) -> None:
        """Remove a peer from a room, and optionally ban its user for so many seconds."""
        body = _given(reason=reason, ban_seconds=ban_seconds)
        self._ask(_Count, "DELETE", _room(room_id, "peers", peer_id), json=body)

    def lock(self, room_id: str, *, locked: bool = True) -> None:
        """Lock a room, so that nobody new can join; or unlock it."""
        self._ask(RoomDetail, "PATCH", _room(room_id), json={"locked": locked})

    def close_room(self, room_id: str, *, reason: str | None = None) -> int:
        """Remove everybody from a room. Returns the number of removed peers."""
        return self._ask(_Count, "DELETE", _room(room_id), json=_given(reason=reason)).removed

    def token(self, sub: str, **claims: Any) -> str:
        """Return a token for a client. `claims` are `name`, `rooms`, `ttl` and the like."""
        return self._ask(_Token, "POST", "/tokens", json={"sub": sub, **claims}).token


class AsyncServerApi:
    """The same client for asyncio and Trio. Use it as an async context manager, or call
    `aclose`.
    """

    def __init__(self, url: str, key: str) -> None:
        """Take the server's URL, and an API key's secret. Does not connect yet."""
        self._http = httpx.AsyncClient(**_client_arguments(url, key))

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, type_: type[T], method: str, path: str, **more: Any) -> T:
        return _read(await self._http.request(method, path, **more), type_)

    async def rooms(self, prefix: str = "") -> AsyncIterator[RoomSummary]:
        """List the rooms that have peers, by their ids, page after page."""
        cursor: str | None = ""
        while cursor is not None:
            params = {"prefix": prefix, "cursor": cursor}
            page = await self._ask(_RoomPage, "GET", "/rooms", params=params)
            for room in page.rooms:
                yield room
            cursor = page.next

    async def room(self, room_id: str) -> RoomDetail:
        """List the peers of a room."""
        return await self._ask(RoomDetail, "GET", _room(room_id))

    async def replicas(self) -> list[ReplicaState]:
        """List the replicas and their health, beginning with the one that answers."""
        return (await self._ask(_Replicas, "GET", "/replicas")).replicas

    async def send(self, room_id: str, data: Any, to: str | None = None) -> int:
        """Send any JSON to a room, or to one peer. Returns the number of receivers."""
        body = {"data": data, **_given(to=to)}
        return (await self._ask(_Count, "POST", _room(room_id, "messages"), json=body)).peers

    async def remove(
        self,
        room_id: str,
        peer_id: str,
        *,
        reason: str | None = None,
        ban_seconds: float | None = None,
    ) -> None:
        """Remove a peer from a room, and optionally ban its user for so many seconds."""
        body = _given(reason=reason, ban_seconds=ban_seconds)
        await self._ask(_Count, "DELETE", _room(room_id, "peers", peer_id), json=body)

    async def lock(self, room_id: str, *, locked: bool = True) -> None:
        """Lock a room, so that nobody new can join; or unlock it."""
        await self._ask(RoomDetail, "PATCH", _room(room_id), json={"locked": locked})

    async def close_room(self, room_id: str, *, reason: str | None = None) -> int:
        """Remove everybody from a room. Returns the number of removed peers."""
        body = _given(reason=reason)
        return (await self._ask(_Count, "DELETE", _room(room_id), json=body)).removed

    async def token(self, sub: str, **claims: Any) -> str:
        """Return a token for a client. `claims` are `name`, `rooms`, `ttl` and the like."""
        return (await self._ask(_Token, "POST", "/tokens", json={"sub": sub, **claims})).token
