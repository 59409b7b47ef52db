"""HTTP routes of announcements: for creators, and for users without a WebSocket."""

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from trio_signal.dialects.rest import (
    CALLER,
    SIGNED_IN,
    Announcements,
    Answer,
    Call,
    Handler,
    Operation,
    Route,
    json_answer,
)
from trio_signal.dialects.rest.draft import MAX_CHARACTERS, check_message, check_type
from trio_signal.errors import (
    AnnouncementError,
    HttpError,
    StoreError,
    UnknownAnnouncementError,
)
from trio_signal.messages.identity import OPEN_GRANTS, Announcement, Identity

T = TypeVar("T")

#: A length that is easy to read on a small screen.
RECOMMENDED_LENGTH = 120


class BroadcastRequest(Struct):
    """The body of `POST /api/creator/broadcast`."""

    message: str = ""
    type: str = "info"


class AcknowledgeRequest(Struct):
    """The body of `POST /api/creator/broadcast/acknowledge`."""

    broadcast_id: str = ""
    #: The user who has seen it. Used in open mode only.
    user_id: str | int | None = None


class Sent(Struct):
    """The announcement was stored and sent."""

    id: str
    message: str
    character_count: int
    sent_to_users: int
    max_characters: int = MAX_CHARACTERS
    status: Literal["success"] = "success"


class Cleared(Struct):
    """No announcement is active any more."""

    cleared_for_users: int
    message: str = "Broadcast cleared successfully"
    status: Literal["success"] = "success"


class Success(Struct):
    """The call succeeded."""

    status: Literal["success"] = "success"


class Banner(Struct):
    """The banner to show; some clients read `type`, some `message_type`."""

    id: str
    message: str
    type: str
    message_type: str


class Active(Struct):
    """The announcement to show to the user, if any."""

    broadcast: Banner | None


class Limits(Struct):
    """The limits of announcements."""

    current_active_broadcasts: int
    max_characters: int = MAX_CHARACTERS
    recommended_length: int = RECOMMENDED_LENGTH


class Stats(Struct):
    """Statistics for creators."""

    broadcasts_today: int
    active_broadcast: bool
    connected_users: int
    connected_users_total: int
    connected_users_note: str = "Count is for this replica only"
    max_characters: int = MAX_CHARACTERS


class StatsAnswer(Struct):
    """The statistics in an envelope."""

    stats: Stats
    status: Literal["success"] = "success"


class Problem(Struct):
    """Why the call was refused."""

    message: str
    status: Literal["error"] = "error"


def problem(status: int, detail: str) -> Struct | Mapping[str, str]:
    """An error in the format of these routes' clients."""
    return {"detail": detail} if status in (401, 403) else Problem(detail)


def _with_store(handle: Callable[[Call, Announcements], Awaitable[Answer]]) -> Handler:
    """Pass the announcements to a handler; answer 503 while their store cannot be reached."""

    @wraps(handle)
    async def handler(call: Call) -> Answer:
        announcements = call.core.announcements
        assert announcements is not None  # noqa: S101  the dialect announces
        try:
            return await handle(call, announcements)
        except StoreError:
            detail = "Announcements are not available now, try again later"
            raise HttpError(503, detail) from None

    return handler


@_with_store
async def announce(call: Call, announcements: Announcements) -> Answer:
    """Answer `POST /api/creator/broadcast`."""
    creator = await _require_creator(call)
    body = await _read(call, BroadcastRequest)
    try:
        message, type_ = check_message(body.message), check_type(body.type)
    except AnnouncementError as error:
        raise HttpError(422, str(error)) from None
    made = await announcements.announce(message, type_, creator)
    users = await announcements.count_users()
    return json_answer(
        Sent(
            id=made.id,
            message=f"Broadcast sent successfully to {users} connected users.",
            character_count=len(message),
            sent_to_users=users,
        )
    )


@_with_store
async def clear(call: Call, announcements: Announcements) -> Answer:
    """Answer `POST /api/creator/broadcast/clear`."""
    await _require_creator(call)
    cleared = await announcements.clear()
    return json_answer(Cleared(await announcements.count_users() if cleared is not None else 0))


@_with_store
async def acknowledge(call: Call, announcements: Announcements) -> Answer:
    """Answer `POST /api/creator/broadcast/acknowledge`."""
    if call.wants_tokens:
        user = await _require_user(call)
        body = await _read(call, AcknowledgeRequest)
    else:
        body = await _read(call, AcknowledgeRequest)
        said = None if body.user_id is None else str(body.user_id)
        user = await _require_user(call, said)
    if not body.broadcast_id:
        raise HttpError(422, "Broadcast ID is required")
    try:
        await announcements.acknowledge(body.broadcast_id, user.user_id)
    except UnknownAnnouncementError:
        raise HttpError(404, "Broadcast not found") from None
    return json_answer(Success())


@_with_store
async def show_active(call: Call, announcements: Announcements) -> Answer:
    """Answer `GET /api/creator/broadcast/active`."""
    user = await _find_user(call)
    found = await announcements.active_for(user.user_id if user is not None else None)
    return json_answer(Active(_banner(found) if found is not None else None))


@_with_store
async def show_limits(call: Call, announcements: Announcements) -> Answer:
    """Answer `GET /api/creator/broadcast/limits`."""
    await _require_creator(call)
    found = await announcements.active_for(None)
    return json_answer(Limits(current_active_broadcasts=int(found is not None)))


@_with_store
async def show_stats(call: Call, announcements: Announcements) -> Answer:
    """Answer `GET /api/creator/broadcast/stats`."""
    creator = await _require_creator(call)
    found = await announcements.active_for(None)
    midnight = f"{call.now[:10]}T00:00:00.000Z"
    return json_answer(
        StatsAnswer(
            Stats(
                broadcasts_today=await announcements.made_since(creator, midnight),
                active_broadcast=found is not None,
                connected_users=announcements.users_here,
                connected_users_total=await announcements.count_users(),
            )
        )
    )


async def _find_user(call: Call, said: str | None = None) -> Identity | None:
    """The caller's identity; None in open mode without one. 401 if a token is needed.

    `said` is the user id in the body.
    """
    try:
        if call.wants_tokens:
            return await call.callers.require()
        return await call.callers.find(said) or await call.callers.find_remembered()
    except HttpError as error:
        if error.status != 401:
            raise
        raise HttpError(401, "Authentication required") from None


async def _require_user(call: Call, said: str | None = None) -> Identity:
    user = await _find_user(call, said)
    if user is None:
        raise HttpError(401, "Authentication required")
    return user


async def _require_creator(call: Call) -> Identity:
    """The creator who calls. In open mode everybody is one, even without a name."""
    creator = await _find_user(call) or _NOBODY
    if not creator.grants.creator:
        raise HttpError(403, "Only creators can perform this action")
    return creator


#: Callers without an identity in open mode.
_NOBODY = Identity("", "anonymous", "anonymous", grants=OPEN_GRANTS)


async def _read(call: Call, type_: type[T]) -> T:
    """Decode the request's JSON, whatever its content type; 400, 413 or 422 if it is invalid."""
    try:
        return msgspec.json.decode(await call.body(), type=type_)
    except msgspec.ValidationError as error:
        raise HttpError(422, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, f"The body is not JSON: {error}") from None


def _banner(announcement: Announcement) -> Banner:
    return Banner(
        announcement.id, announcement.message, announcement.type, message_type=announcement.type
    )


_ERRORS: Mapping[int, Any] = {**SIGNED_IN, 503: Problem}
_BODY_ERRORS = {**_ERRORS, **dict.fromkeys((400, 413, 422), Problem)}
_PATH = "/api/creator/broadcast"

ROUTES = (
    Route(
        f"POST {_PATH}",
        announce,
        Operation(
            "Make an announcement to every user", Sent, _BODY_ERRORS, BroadcastRequest, CALLER
        ),
    ),
    Route(
        f"POST {_PATH}/clear",
        clear,
        Operation("Remove the announcement", Cleared, _ERRORS, query=CALLER),
    ),
    Route(
        f"POST {_PATH}/acknowledge",
        acknowledge,
        Operation(
            "Acknowledge the announcement, so that the caller does not see it again",
            Success,
            {**_BODY_ERRORS, 404: Problem},
            AcknowledgeRequest,
            CALLER,
        ),
    ),
    Route(
        f"GET {_PATH}/active",
        show_active,
        Operation(
            "Get the announcement that the caller has not acknowledged",
            Active,
            _ERRORS,
            query=CALLER,
        ),
    ),
    Route(
        f"GET {_PATH}/limits",
        show_limits,
        Operation("Get the limits of announcements", Limits, _ERRORS, query=CALLER),
    ),
    Route(
        f"GET {_PATH}/stats",
        show_stats,
        Operation("Get statistics, for creators", StatsAnswer, _ERRORS, query=CALLER),
    ),
)
