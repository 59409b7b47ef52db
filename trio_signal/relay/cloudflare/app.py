"""The requests to an app of Cloudflare Realtime, and its answers.

They follow the OpenAPI document that Cloudflare publishes:
https://developers.cloudflare.com/realtime/static/realtime-api-2024-05-21.yaml.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from trio_signal.cloudflare import Cloudflare, CloudflareError, Problem, read
from trio_signal.relay import RelayError

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Description(Struct):
    """A session description."""

    sdp: str
    type: str


class Track(Problem):
    """A track of a session, or why there is none."""

    location: str | None = None
    mid: str | None = None
    trackName: str | None = None  # noqa: N815  the API's names
    status: str | None = None


class Answer(Problem):
    """The fields that answers may have."""

    sessionId: str | None = None  # noqa: N815
    sessionDescription: Description | None = None  # noqa: N815
    tracks: list[Track] | None = None

    def description(self, kind: str) -> str:
        """The offer or the answer in it; raises RelayError if there is none."""
        given = self.sessionDescription
        if given is None or given.type != kind:
            said = next(filter(None, (each.said() for each in self.tracks or ())), "")
            raise RelayError(f"the media server gave no {kind}{said and f' ({said})'}")
        return given.sdp

    def good(self) -> dict[str, str]:
        """The mids of the tracks without errors, by name."""
        return {
            track.trackName: track.mid
            for track in self.tracks or ()
            if not track.errorCode and track.trackName is not None and track.mid is not None
        }

    def active(self, location: str) -> dict[str, str]:
        """The mids of a session's active tracks, by name."""
        active = [track for track in self.tracks or () if track.status == "active"]
        return Answer(tracks=[track for track in active if track.location == location]).good()


_decode = msgspec.json.Decoder(Answer).decode


def is_over(error: CloudflareError) -> bool:
    """Whether the session of the request is gone: it has ended, or never connected."""
    # 425 has the same code, and means that it is too early.
    return error.status == 410 or (error.code == "session_error" and error.status != 425)


class App:
    """One app. Methods raise CloudflareError; call those for one session one at a time."""

    def __init__(self, api: Cloudflare, app_id: str) -> None:
        """Use the API with the app's secret."""
        self._api = api
        self._app_id = app_id

    async def new_session(self) -> str:
        """The id of a new session, which expires if it does not connect."""
        session = (await self._ask("POST", "sessions/new")).sessionId
        if session is None:
            raise CloudflareError("gave a session without an id", 200)
        return session

    async def state(self, session: str) -> Answer:
        """The tracks of a session."""
        return await self._ask("GET", _path(session))

    async def publish(self, session: str, offer: str, mids: Mapping[str, str]) -> Answer:
        """Publish the offered sections of these mids to a session, each under a name."""
        tracks = [
            {"location": "local", "mid": mid, "trackName": name} for name, mid in mids.items()
        ]
        body = {"sessionDescription": _described("offer", offer), "tracks": tracks}
        return await self._ask("POST", _path(session, "tracks/new"), body)

    async def subscribe(
        self, session: str, feed: str, names: Iterable[str], patience: float | None = None
    ) -> Answer:
        """Subscribe a session to tracks of a feed; the answer has an offer."""
        tracks = [{"location": "remote", "sessionId": feed, "trackName": name} for name in names]
        path = _path(session, "tracks/new")
        return await self._ask("POST", path, {"tracks": tracks}, patience)

    async def replace(self, session: str, feed: str, mids: Mapping[str, str]) -> Answer:
        """Replace tracks that a session sends by other tracks of a feed."""
        tracks = [
            {"location": "remote", "sessionId": feed, "trackName": name, "mid": mid}
            for name, mid in mids.items()
        ]
        return await self._ask("PUT", _path(session, "tracks/update"), {"tracks": tracks})

    async def renegotiate(self, session: str, kind: str, sdp: str) -> Answer:
        """Pass on a description of the browser."""
        body = {"sessionDescription": _described(kind, sdp)}
        return await self._ask("PUT", _path(session, "renegotiate"), body)

    async def close(self, session: str, mids: Iterable[str], offer: str | None = None) -> Answer:
        """Close some tracks; an offer of the browser without them is answered."""
        body: dict[str, object] = {
            "tracks": [{"mid": mid} for mid in mids],
            "force": offer is None,
        }
        if offer is not None:
            body["sessionDescription"] = _described("offer", offer)
        return await self._ask("PUT", _path(session, "tracks/close"), body)

    async def _ask(
        self, method: str, path: str, body: object = None, patience: float | None = None
    ) -> Answer:
        text = await self._api.ask(method, f"apps/{self._app_id}/{path}", body, patience)
        answer = read(_decode, text or b"{}")
        if answer.errorCode:
            raise CloudflareError(f"refuses ({answer.said()})", 200, answer.errorCode)
        return answer


def _path(session: str, of_it: str = "") -> str:
    """The path of a session, whose id comes from outside, perhaps from another replica."""
    if not _ID.fullmatch(session):
        raise CloudflareError("no session has such an id", 410)
    return f"sessions/{session}/{of_it}".rstrip("/")


def _described(kind: str, sdp: str) -> dict[str, str]:
    return {"type": kind, "sdp": sdp}
