"""The REST of announcements: for creators, and for users without a WebSocket."""

from datetime import UTC, datetime
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
    UnprocessableEntity,
    UnsupportedMediaType,
)

from trio_signal.announcements import MAX_CHARACTERS, Announcements, check_message, check_type
from trio_signal.auth import OPEN_GRANTS
from trio_signal.config import Settings
from trio_signal.errors import (
    AnnouncementError,
    StoreError,
    UnknownAnnouncementError,
)
from trio_signal.messages.identity import Announcement, Identity
from trio_signal.web.bodies import json_answer
from trio_signal.web.callers import Callers

T = TypeVar("T")

PREFIX = "/api/creator"
#: What is easy to read on a small screen.
RECOMMENDED_LENGTH = 120


class BroadcastRequest(Struct):
    """The body of `POST /api/creator/broadcast`."""

    message: str = ""
    type: str = "info"


class AcknowledgeRequest(Struct):
    """The body of `POST /api/creator/broadcast/acknowledge`."""

    broadcast_id: str = ""
    #: Who has seen it. Believed in open mode only.
    user_id: str | int = ""


class Sent(Struct):
    """An announcement was stored and told."""

    id: str
    message: str
    character_count: int
    sent_to_users: int
    max_characters: int = MAX_CHARACTERS
    status: Literal["success"] = "success"


class Cleared(Struct):
    """Nothing is active any more."""

    cleared_for_users: int
    message: str = "Broadcast cleared successfully"
    status: Literal["success"] = "success"


class Success(Struct):
    """It is done."""

    status: Literal["success"] = "success"


class Banner(Struct):
    """What is to be shown; some clients read `type`, some `message_type`."""

    id: str
    message: str
    type: str
    message_type: str


class Active(Struct):
    """What this user is to see, if anything."""

    broadcast: Banner | None


class Limits(Struct):
    """What may be announced."""

    current_active_broadcasts: int
    max_characters: int = MAX_CHARACTERS
    recommended_length: int = RECOMMENDED_LENGTH


class Stats(Struct):
    """Numbers for creators."""

    broadcasts_today: int
    active_broadcast: bool
    connected_users: int
    connected_users_total: int
    connected_users_note: str = "Count is for this replica only"
    max_characters: int = MAX_CHARACTERS


class StatsAnswer(Struct):
    """The same, in its envelope."""

    stats: Stats
    status: Literal["success"] = "success"


class Problem(Struct):
    """Why it was not done."""

    message: str
    status: Literal["error"] = "error"


def add_announcements(
    app: QuartTrio, announcements: Announcements, callers: Callers, settings: Settings
) -> None:
    """Add the routes."""

    @app.post(f"{PREFIX}/broadcast")
    async def broadcast() -> Response:
        creator = await require_creator()
        body = await _read(BroadcastRequest)
        try:
            message, type_ = check_message(body.message), check_type(body.type)
        except AnnouncementError as error:
            raise UnprocessableEntity(str(error)) from None
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

    @app.post(f"{PREFIX}/broadcast/clear")
    async def clear() -> Response:
        await require_creator()
        cleared = await announcements.clear()
        return json_answer(Cleared(await announcements.count_users() if cleared is not None else 0))

    @app.post(f"{PREFIX}/broadcast/acknowledge")
    async def acknowledge() -> Response:
        if settings.wants_tokens:
            user = await require_user()
            body = await _read(AcknowledgeRequest)
        else:
            body = await _read(AcknowledgeRequest)
            user = await require_user(str(body.user_id))
        if not body.broadcast_id:
            raise UnprocessableEntity("Broadcast ID is required")
        try:
            await announcements.acknowledge(body.broadcast_id, user.user_id)
        except UnknownAnnouncementError:
            raise NotFound("Broadcast not found") from None
        return json_answer(Success())

    @app.get(f"{PREFIX}/broadcast/active")
    async def active() -> Response:
        user = await find_user()
        found = await announcements.active_for(user.user_id if user is not None else None)
        return json_answer(Active(_banner(found) if found is not None else None))

    @app.get(f"{PREFIX}/broadcast/limits")
    async def limits() -> Response:
        await require_creator()
        found = await announcements.active_for(None)
        return json_answer(Limits(current_active_broadcasts=int(found is not None)))

    @app.get(f"{PREFIX}/broadcast/stats")
    async def stats() -> Response:
        creator = await require_creator()
        found = await announcements.active_for(None)
        return json_answer(
            StatsAnswer(
                Stats(
                    broadcasts_today=await announcements.made_since(creator, _midnight()),
                    active_broadcast=found is not None,
                    connected_users=announcements.users_here,
                    connected_users_total=await announcements.count_users(),
                )
            )
        )

    async def find_user(said: str | None = None) -> Identity | None:
        """Who asks; None for nobody in open mode. Aborts with 401 where a token is needed.

        `said` is who the body says it is.
        """
        try:
            if settings.wants_tokens:
                return await callers.require()
            return await callers.find(said) or await callers.find_remembered()
        except Unauthorized:
            raise Unauthorized("Authentication required") from None

    async def require_user(said: str | None = None) -> Identity:
        user = await find_user(said)
        if user is None:
            raise Unauthorized("Authentication required")
        return user

    async def require_creator() -> Identity:
        """In open mode everybody is one, also who does not say its name."""
        creator = await find_user() or _NOBODY
        if not creator.grants.creator:
            raise Forbidden("Only creators can perform this action")
        return creator

    @app.errorhandler(StoreError)
    async def unavailable(error: StoreError) -> Response:
        return describe(ServiceUnavailable("Announcements are not available now, try again later"))


#: Whoever calls in open mode without saying who it is.
_NOBODY = Identity("", "anonymous", "anonymous", grants=OPEN_GRANTS)


def describe(problem: HTTPException) -> Response:
    """An error as the clients of these calls read it."""
    code = problem.code or 500
    if code in (401, 403):
        return json_answer({"detail": problem.description}, code)
    return json_answer(Problem(problem.description or ""), code)


async def _read(type_: type[T]) -> T:
    """The request's JSON; aborts with 400, 413, 415 or 422."""
    if not request.is_json:
        raise UnsupportedMediaType("The body must be of type application/json")
    body = await request.get_data(as_text=False)
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise UnprocessableEntity(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not JSON: {error}") from None


def _banner(announcement: Announcement) -> Banner:
    return Banner(
        announcement.id, announcement.message, announcement.type, message_type=announcement.type
    )


def _midnight() -> str:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
