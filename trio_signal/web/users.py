"""The REST of users: guests get an identity by name, and say more of themselves."""

from typing import Annotated
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from msgspec import Meta, Struct, field
from msgspec.structs import replace
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import BadRequest, Forbidden, NotFound

from trio_signal.clock import utc_now
from trio_signal.config import Settings
from trio_signal.hub import Hub
from trio_signal.messages.events import UserChanged
from trio_signal.messages.identity import Identity
from trio_signal.names import ANONYMOUS, clean_name, clean_picture
from trio_signal.notes import GuestUser
from trio_signal.web.bodies import json_answer, read_body
from trio_signal.web.callers import Callers

#: Characters of a user's text about itself, and of its address.
MAX_BIO = 2000
MAX_EMAIL = 254
#: What a change costs besides the request, as all replicas are told; in tokens.
_CHANGE = 5.0
_GUESTS = uuid5(NAMESPACE_URL, "urn:trio-signal:guest")


class UserRequest(Struct):
    """The body of `POST /users`."""

    username: str | None = None


class ProfileRequest(Struct):
    """The body of `PUT /users/{user_id}/profile`; what is missing stays as it was."""

    display_name: str | None = None
    username: str | None = None
    bio: Annotated[str, Meta(max_length=MAX_BIO)] | None = None
    email: Annotated[str, Meta(max_length=MAX_EMAIL)] | None = None
    avatar_url: str | None = None


class UserAnswer(GuestUser, frozen=True):
    """A user, as the clients have it."""

    #: Pictures of other sizes, of which there are none.
    avatar_urls: dict[str, str] = field(default_factory=dict)


def add_users(app: QuartTrio, hub: Hub, callers: Callers, settings: Settings) -> None:
    """Add the routes."""

    async def require_self(user_id: str) -> Identity | None:
        """The caller, who has to be this user; None in open mode, where anybody may be."""
        caller = await callers.require() if settings.wants_tokens else None
        if caller is not None and caller.user_id != user_id:
            raise Forbidden("Identity mismatch")
        return caller

    async def find_user(user_id: str, caller: Identity | None) -> GuestUser:
        """What is known of a user, by itself or by its token; aborts with 404."""
        user = await hub.notes.user(user_id)
        if user is None and caller is not None:
            user = _user_of(caller)
        if user is None:
            raise NotFound("User not found")
        return user

    @app.post("/users")
    async def create_user() -> Response:
        caller = await callers.require() if settings.wants_tokens else None
        name = clean_name((await read_body(UserRequest)).username)
        if caller is not None:
            user = await hub.notes.user(caller.user_id) or _user_of(caller)
            username = caller.username or name or user.username
            user = replace(user, username=username, display_name=user.display_name or username)
        elif name is None:
            raise BadRequest("A user needs a name")
        else:
            user = await _guest(hub, name)
        await hub.notes.keep_user(user)
        return _answer(user)

    @app.get("/users/<user_id>")
    async def show_user(user_id: str) -> Response:
        return _answer(await find_user(user_id, await require_self(user_id)))

    @app.put("/users/<user_id>/profile")
    async def change_profile(user_id: str) -> Response:
        caller = await require_self(user_id)
        body = await read_body(ProfileRequest)
        # One that is not known any more, since before a restart or from an old server, goes on.
        old = await hub.notes.user(user_id)
        if old is None:
            name = clean_name(body.username) or clean_name(body.display_name) or ANONYMOUS
            guest = GuestUser(user_id, name, display_name=name, created_at=utc_now())
            old = _user_of(caller) if caller is not None else guest
        user = _changed(old, body)
        await hub.notes.keep_user(user)
        callers.charge(_CHANGE)
        hub.change_user(
            UserChanged(
                user_id=user_id,
                username=clean_name(body.username),
                avatar_url=clean_picture(body.avatar_url),
                previous_username=old.username,
                bio=body.bio,
            )
        )
        return json_answer({"success": True, "user": _shown(user)})


async def _guest(hub: Hub, name: str) -> GuestUser:
    """The guest of this name: the one that is called so, else a new one.

    Its id is made of the name, so that two who ask at one moment get the same; but for a name
    that another one gave up.
    """
    user = await hub.notes.user_named(name)
    if user is not None:
        return user
    id_: UUID = uuid5(_GUESTS, name.casefold())
    if await hub.notes.user(str(id_)) is not None:
        id_ = uuid4()
    return GuestUser(str(id_), name, display_name=name, created_at=utc_now())


def _user_of(caller: Identity) -> GuestUser:
    name = caller.username or caller.user_id
    return GuestUser(
        caller.user_id,
        name,
        display_name=name,
        avatar_url=caller.avatar_url or "",
        created_at=utc_now(),
    )


def _changed(user: GuestUser, change: ProfileRequest) -> GuestUser:
    avatar_url = clean_picture(change.avatar_url)
    return replace(
        user,
        username=clean_name(change.username) or user.username,
        display_name=clean_name(change.display_name) or user.display_name,
        bio=user.bio if change.bio is None else change.bio,
        email=user.email if change.email is None else change.email,
        avatar_url=user.avatar_url if avatar_url is None else avatar_url,
    )


def _shown(user: GuestUser) -> UserAnswer:
    return UserAnswer(
        user.id,
        user.username,
        user.display_name,
        user.email,
        user.bio,
        user.avatar_url,
        user.created_at,
    )


def _answer(user: GuestUser) -> Response:
    return json_answer(_shown(user))
