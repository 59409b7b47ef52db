"""HTTP routes of users: guests get an identity by name, and can change their profile."""

from typing import Annotated
from uuid import NAMESPACE_URL, uuid5

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from trio_signal.dialects.rest import (
    BODY,
    SIGNED_IN,
    Answer,
    Call,
    Detail,
    Operation,
    Route,
    json_answer,
    read_json,
)
from trio_signal.errors import HttpError
from trio_signal.messages.events import UserChanged
from trio_signal.messages.identity import Identity
from trio_signal.messages.records import GuestUser
from trio_signal.names import ANONYMOUS, clean_name, clean_picture

#: Most characters of a user's text about itself, and of its address.
MAX_BIO = 2000
MAX_EMAIL = 254
#: Tokens that a change costs besides the request, as all replicas receive it.
_CHANGE = 5.0
_GUESTS = uuid5(NAMESPACE_URL, "urn:trio-signal:guest")


class UserRequest(Struct):
    """The body of `POST /users`."""

    username: str | None = None


class ProfileRequest(Struct):
    """The body of `PUT /users/{user_id}/profile`; missing fields stay unchanged."""

    display_name: str | None = None
    username: str | None = None
    bio: Annotated[str, Meta(max_length=MAX_BIO)] | None = None
    email: Annotated[str, Meta(max_length=MAX_EMAIL)] | None = None
    avatar_url: str | None = None


class UserAnswer(GuestUser, frozen=True):
    """A user, in the format of the clients."""

    #: Pictures of other sizes; always empty.
    avatar_urls: dict[str, str] = field(default_factory=dict)


class ProfileChanged(Struct):
    """The changed user."""

    success: bool
    user: UserAnswer


async def create_user(call: Call) -> Answer:
    """Answer `POST /users`."""
    notes = call.core.notes
    caller = await call.callers.require() if call.wants_tokens else None
    name = clean_name((await read_json(call, UserRequest)).username)
    if caller is not None:
        user = await notes.user(caller.user_id) or _user_of(call, caller)
        username = caller.username or name or user.username
        user = replace(user, username=username, display_name=user.display_name or username)
    elif name is None:
        raise HttpError(400, "A user needs a name")
    else:
        user = await _guest(call, name)
    await notes.keep_user(user)
    return json_answer(_shown(user))


async def show_user(call: Call) -> Answer:
    """Answer `GET /users/{user_id}`."""
    user_id = call.path["user_id"]
    caller = await _require_self(call, user_id)
    user = await call.core.notes.user(user_id)
    if user is None and caller is not None:
        user = _user_of(call, caller)
    if user is None:
        raise HttpError(404, "User not found")
    return json_answer(_shown(user))


async def change_profile(call: Call) -> Answer:
    """Answer `PUT /users/{user_id}/profile`."""
    user_id, notes = call.path["user_id"], call.core.notes
    caller = await _require_self(call, user_id)
    body = await read_json(call, ProfileRequest)
    # A guest that is unknown, from before a restart or from an old server, may continue.
    old = await notes.user(user_id)
    if old is None:
        name = clean_name(body.username) or clean_name(body.display_name) or ANONYMOUS
        guest = GuestUser(user_id, name, display_name=name, created_at=call.now)
        old = _user_of(call, caller) if caller is not None else guest
    user = _changed(old, body)
    await notes.keep_user(user)
    call.callers.charge(_CHANGE)
    call.core.talk.change_user(
        UserChanged(
            user_id=user_id,
            username=clean_name(body.username),
            avatar_url=clean_picture(body.avatar_url),
            previous_username=old.username,
            bio=body.bio,
        )
    )
    return json_answer(ProfileChanged(success=True, user=_shown(user)))


async def _require_self(call: Call, user_id: str) -> Identity | None:
    """The caller, who must be this user; None in open mode, where anybody may be."""
    caller = await call.callers.require() if call.wants_tokens else None
    if caller is not None and caller.user_id != user_id:
        raise HttpError(403, "Identity mismatch")
    return caller


async def _guest(call: Call, name: str) -> GuestUser:
    """The guest with this name: the one that has the name now, or a new one.

    The id is derived from the name. So two concurrent requests get the same id, even if only one of
    them finds the stored guest. The exception is a name that another guest gave up.
    """
    notes = call.core.notes
    user = await notes.user_named(name)
    if user is not None:
        return user
    user_id = str(uuid5(_GUESTS, name.casefold()))
    known = await notes.user(user_id)
    if known is not None and known.username.casefold() == name.casefold():
        return known
    if known is not None:
        user_id = call.new_id()
    return GuestUser(user_id, name, display_name=name, created_at=call.now)


def _user_of(call: Call, caller: Identity) -> GuestUser:
    name = caller.username or caller.user_id
    return GuestUser(
        caller.user_id,
        name,
        display_name=name,
        avatar_url=caller.avatar_url or "",
        created_at=call.now,
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


ROUTES = (
    Route(
        "POST /users",
        create_user,
        Operation(
            "Create a guest identity",
            UserAnswer,
            {**SIGNED_IN, **BODY, 400: Detail},
            UserRequest,
        ),
    ),
    Route(
        "GET /users/{user_id}",
        show_user,
        Operation("Get a user", UserAnswer, {**SIGNED_IN, 404: Detail}),
    ),
    Route(
        "PUT /users/{user_id}/profile",
        change_profile,
        Operation(
            "Update the caller's profile, and tell its rooms",
            ProfileChanged,
            {**SIGNED_IN, **BODY, 404: Detail},
            ProfileRequest,
        ),
    ),
)
