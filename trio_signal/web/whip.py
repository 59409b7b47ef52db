"""WHIP, RFC 9725: OBS, GStreamer and others publish to a room over HTTP."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from urllib.parse import quote

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from trio_signal.config import Settings
from trio_signal.dialects.rest import CALLER, Detail, Operation
from trio_signal.errors import HttpError, NotPublishedError, SdpError, UnconfirmedError
from trio_signal.ice import ice_servers
from trio_signal.limits import Limits
from trio_signal.messages.events import Refusal
from trio_signal.messages.identity import Identity
from trio_signal.publishing import ENDED, Elsewhere, Publisher, Publishers, etag_of
from trio_signal.relay import RelayError
from trio_signal.sdp import Fragment, check_offer, read_fragment
from trio_signal.web.callers import Callers, request_address
from trio_signal.web.calls import raw_path, read_path, to_rule

_SDP = "application/sdp"
_FRAGMENT = "application/trickle-ice-sdpfrag"
#: The path to publish to, and the path of a publisher's session.
ENDPOINT = "/whip/{room_id:path}"
SESSION = "/whip/{room_id:path}/{session_id:path}"
#: The name in TURN credentials, and the publisher's name, if the caller has none.
_ANYBODY = "publisher"
#: Seconds to wait before a retry.
_SOON = {"Retry-After": "5"}

_OTHER_SESSION, _NO_SESSION = "The ICE session has changed", "There is no such session"
_STATUS = {Refusal.STREAM_TAKEN: 409, Refusal.ROOM_FULL: 503, Refusal.NOT_ALLOWED: 403}
_ERRORS = dict.fromkeys((401, 403, 404, 413, 429, 503), Detail) | {400: Detail, 415: Detail}
OPERATIONS = {
    f"GET {ENDPOINT}": Operation(
        "An empty text, as RFC 9725 demands", str, media_type="text/plain"
    ),
    f"POST {ENDPOINT}": Operation(
        "Publish by WHIP: the offer is answered for the media server",
        str,
        {**_ERRORS, 409: Detail, 422: Detail},
        str,
        CALLER,
        _SDP,
        _SDP,
        status=201,
    ),
    f"PATCH {SESSION}": Operation(
        "Add candidates (204), or restart ICE (200)",
        str,
        {**_ERRORS, 412: Detail, 428: Detail},
        str,
        CALLER,
        _FRAGMENT,
        _FRAGMENT,
        empty=(204,),
    ),
    f"DELETE {SESSION}": Operation(
        "End publishing",
        str,
        dict.fromkeys((400, 401, 403, 404, 429, 503), Detail),
        query=CALLER,
        media_type="text/plain",
    ),
}


class WhipRoutes:
    """The routes."""

    def __init__(
        self, publishers: Publishers, callers: Callers, settings: Settings, limits: Limits
    ) -> None:
        """Use these parts for the routes."""
        self._publishers = publishers
        self._callers = callers
        self._settings = settings
        self._limits = limits

    def add_to(self, app: QuartTrio) -> None:
        """Add the routes to the app."""
        for method, path, view in (
            ("POST", ENDPOINT, self.publish),
            ("OPTIONS", ENDPOINT, self.describe),
            ("GET", ENDPOINT, self.show),
            ("PATCH", SESSION, self.change),
            ("DELETE", SESSION, self.end),
        ):
            app.add_url_rule(
                to_rule(path),
                endpoint=f"{method} {path}",
                view_func=view,
                methods=[method],
                merge_slashes=False,
                provide_automatic_options=False,
            )

    async def describe(self, room_id: str) -> Response:
        """Answer `OPTIONS` of both paths; routing cannot tell one from the other."""
        if raw_path().count(b"/") == ENDPOINT.count("/"):
            headers = {"Allow": "GET, HEAD, OPTIONS, POST", "Accept-Post": _SDP}
        else:
            allowed = "DELETE, GET, HEAD, OPTIONS, PATCH"
            headers = {"Allow": allowed, "Accept-Patch": _FRAGMENT}
        return Response("", headers=headers)

    async def show(self, room_id: str) -> Response:
        """Answer `GET` of both paths: an empty text, as section 4.1 demands."""
        return Response("", content_type="text/plain")

    # The endpoint

    async def publish(self, room_id: str) -> Response:
        """Answer `POST /whip/{room_id}`."""
        room_id = read_path(ENDPOINT, raw_path())["room_id"]
        identity = await self._find_caller()
        if not (identity.grants.publish and identity.grants.admit(room_id)):
            raise HttpError(403, "Not allowed to publish in this room")
        offer = await _read(_SDP)
        try:
            credentials = check_offer(offer)
            with ExitStack() as unless_published:
                now = trio.current_time()
                lease = self._limits.admit(request_address(self._settings), now)
                unless_published.enter_context(lease)
                lease.authenticated()
                publisher = await self._publishers.publish(
                    room_id, identity, offer, credentials, lease
                )
                unless_published.pop_all()
        except SdpError as error:
            raise HttpError(400, str(error)) from None
        except NotPublishedError as error:
            status = 422 if error.refusal is None else _STATUS.get(error.refusal, 403)
            raise HttpError(status, str(error), _SOON if status == 503 else {}) from None
        except RelayError as error:
            raise HttpError(503, str(error), _SOON) from None
        answer = Response(publisher.answer, 201, content_type=_SDP)
        answer.headers["Location"] = f"/whip/{quote(room_id, safe='')}/{publisher.secret}"
        answer.set_etag(publisher.etag)
        servers = ice_servers(self._settings, identity.user_id, self._publishers.hub.turn)
        for link in links_of(servers):
            answer.headers.add("Link", link)
        return answer

    async def _find_caller(self) -> Identity:
        """The publisher's identity; in open mode, anybody may publish."""
        if self._settings.wants_tokens:
            return await self._callers.require()
        found = await self._callers.find() or await self._callers.find(_ANYBODY)
        assert found is not None  # noqa: S101  a name was given
        return found

    # The session

    async def change(self, room_id: str, session_id: str) -> Response:
        """Answer `PATCH` of a session: more candidates, or an ICE restart."""
        found = await self._find()
        try:
            fragment = read_fragment(await _read(_FRAGMENT))
            if not request.if_match:
                text = "If-Match must be the ETag of the session, or * to restart ICE"
                raise HttpError(428, text)
            if isinstance(found, Publisher):
                return await _change_here(found, fragment)
        except SdpError as error:
            raise HttpError(400, str(error)) from None
        if _is_for_any():
            raise HttpError(503, "Another replica has this session", _SOON)
        if not request.if_match.contains(etag_of(found.secret, fragment.credentials)):
            raise HttpError(412, _OTHER_SESSION)
        self._publishers.hand_on(found, fragment)
        return Response("", 204)

    async def end(self, room_id: str, session_id: str) -> Response:
        """Answer `DELETE` of a session, when it has ended."""
        found = await self._find()
        if isinstance(found, Publisher):
            found.close(ENDED)
            await found.is_over.wait()
        else:
            try:
                await self._publishers.end_elsewhere(found)
            except UnconfirmedError as error:
                raise HttpError(503, str(error), _SOON) from None
        return Response("", content_type="text/plain")

    async def _find(self) -> Publisher | Elsewhere:
        """The session of the path; aborts with 401, 403 or 404."""
        caller = await self._callers.require() if self._settings.wants_tokens else None
        ids = read_path(SESSION, raw_path())
        found = await self._publishers.find(ids["room_id"], ids["session_id"])
        if found is None:
            raise HttpError(404, _NO_SESSION)
        if caller is not None and not found.is_by(caller):
            raise HttpError(403, "The session belongs to somebody else")
        return found


async def _change_here(publisher: Publisher, fragment: Fragment) -> Response:
    if not _is_for_any() and not request.if_match.contains(publisher.etag):
        raise HttpError(412, _OTHER_SESSION)
    if fragment.credentials == publisher.credentials:
        publisher.take(fragment)
        return Response("", 204)
    try:
        answer = Response(await publisher.restart(fragment), content_type=_FRAGMENT)
    except RelayError as error:
        if publisher.closed_with is not None:  # it ended meanwhile: to try again is no use
            raise HttpError(404, _NO_SESSION) from None
        raise HttpError(503, str(error), _SOON) from None
    answer.set_etag(publisher.etag)
    return answer


def _is_for_any() -> bool:
    """Whether `If-Match` is a star; in the example of RFC 9725 it has quotes."""
    return request.if_match.contains("*")


async def _read(media_type: str) -> str:
    """Read a body of this type; aborts with 415 or 400."""
    if request.mimetype != media_type:
        raise HttpError(415, f"The body must be {media_type}")
    body = await request.get_data(as_text=False)
    assert isinstance(body, bytes)  # noqa: S101  as it was asked for
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise HttpError(400, "The body is not UTF-8") from None


def links_of(servers: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """STUN and TURN servers as WHIP writes them in headers."""
    for server in servers:
        urls = server["urls"]
        all_urls = [urls] if isinstance(urls, str) else msgspec.convert(urls, list[str])
        said = ""
        if "username" in server:
            said = f'; username="{server["username"]}"; credential="{server["credential"]}"'
            said += '; credential-type="password"'
        for url in all_urls:
            yield f'<{url}>; rel="ice-server"{said}'
