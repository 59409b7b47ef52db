"""HTTP routes of the dialect `peerjs`: a new id, and the list of ids."""

from msgspec import Struct

from trio_signal.dialects.rest import Answer, Call, Operation, Route, json_answer

#: Most bytes of the ids in an answer.
_MAX_BYTES = 2**20


class Refused(Struct):
    """Why the call is refused."""

    error: str


async def make_id(call: Call) -> Answer:
    """Answer `GET {path}{key}/id`: an id that nobody has."""
    return Answer(call.new_id().encode(), content_type="text/plain; charset=utf-8")


async def list_ids(call: Call) -> Answer:
    """Answer `GET {path}{key}/peers`, for moderators only."""
    if not call.wants_tokens:
        return json_answer(Refused("Discovery is off"), 401)
    caller = await call.callers.find()
    if caller is None or not caller.grants.moderator:
        return json_answer(Refused("Discovery is for moderators"), 401)
    ids: list[str] = []
    size = 0
    for id_ in await call.core.bus.names.list(call.path["key"]):
        size += len(id_) + 3
        if size > _MAX_BYTES:
            break
        ids.append(id_)
    return json_answer(ids)


_ID = Operation("Get a new peer id, for PeerJS clients", str, media_type="text/plain")
_IDS = Operation("List the ids of connected peers, for moderators", list[str], {401: Refused})

ROUTES = [
    Route("GET /{key}/id", make_id, _ID, public=True),
    Route("GET /{path:path}/{key}/id", make_id, _ID, public=True),
    Route("GET /{key}/peers", list_ids, _IDS, public=True),
    Route("GET /{path:path}/{key}/peers", list_ids, _IDS, public=True),
]
