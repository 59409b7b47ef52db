"""Members for the tests that need only some of a member's fields."""

from trio_signal.messages.identity import WIRE, Live, MediaType, Member

#: Any time. Times are only passed on, never compared.
AT = "2026-11-20T10:15:30.123Z"


def member(
    peer_id: str,
    user_id: str | None = None,
    *,
    replica: str = "a",
    username: str | None = None,
    subject: str | None = None,
    dialect: str = "mesh",
    live: MediaType | None = None,
    avatar_url: str | None = None,
) -> Member:
    """A member of a room; by default the user is named after the peer."""
    user_id = user_id or peer_id
    return Member(
        peer_id=peer_id,
        user_id=user_id,
        username=username or user_id.title(),
        dialect=dialect,
        replica=replica,
        subject=subject or user_id,
        avatar_url=avatar_url,
        live=Live(live, AT) if live else None,
        wire=WIRE,
        away=False,
    )
