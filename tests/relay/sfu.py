"""The media server behind `tests/cloudflare.py`: aiortc, with the behaviour of the published API.

It accepts the requests of the OpenAPI document; all others are refused and recorded.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, cast
from uuid import uuid4

import av
import msgspec
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.contrib.media import MediaRelay
from msgspec import UNSET, Struct, UnsetType

from tests.cloudflare import Api, Asked, Reply, open_api
from tests.relay.peers import Peers

APP = "5a1f"


class Description(Struct, forbid_unknown_fields=True):
    sdp: str
    type: Literal["offer", "answer"]


class Track(Struct, forbid_unknown_fields=True):
    location: Literal["local", "remote"]
    trackName: str  # noqa: N815
    mid: str | UnsetType = UNSET
    sessionId: str | UnsetType = UNSET  # noqa: N815


class TracksRequest(Struct, forbid_unknown_fields=True):
    tracks: list[Track]
    sessionDescription: Description | UnsetType = UNSET  # noqa: N815


class RenegotiateRequest(Struct, forbid_unknown_fields=True):
    sessionDescription: Description  # noqa: N815


class Mid(Struct, forbid_unknown_fields=True):
    mid: str


class CloseRequest(Struct, forbid_unknown_fields=True):
    tracks: list[Mid]
    force: bool
    sessionDescription: Description | UnsetType = UNSET  # noqa: N815


class UpdateRequest(Struct, forbid_unknown_fields=True):
    tracks: list[Track]


class Forwarded(MediaStreamTrack):
    """A track for one viewer: its source may change, while timestamps continue for the encoder."""

    def __init__(self, source: MediaStreamTrack) -> None:
        super().__init__()
        self.kind = source.kind
        self.source = source
        self._count = 0

    async def recv(self) -> Any:
        frame = None
        while frame is None:
            with suppress(TimeoutError):  # it may have another source by now
                frame = await asyncio.wait_for(self.source.recv(), 0.5)
        if isinstance(frame, av.VideoFrame):
            self._count += 1
            frame = av.VideoFrame(frame.width, frame.height)  # the original belongs to all viewers
            frame.pts, frame.time_base = 3000 * self._count, Fraction(1, 90_000)
        return frame


@dataclass
class Session:
    """A peer connection of the media server."""

    pc: RTCPeerConnection = field(default_factory=RTCPeerConnection)
    #: The incoming and the outgoing tracks, by mid.
    names: dict[str, str] = field(default_factory=dict)
    incoming: dict[str, MediaStreamTrack] = field(default_factory=dict)
    remote: dict[str, tuple[str, str]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    is_offered: bool = False


REQUESTS: dict[tuple[str, str], type[Struct] | None] = {
    ("GET", ""): None,
    ("POST", "tracks/new"): TracksRequest,
    ("PUT", "tracks/update"): UpdateRequest,
    ("PUT", "tracks/close"): CloseRequest,
    ("PUT", "renegotiate"): RenegotiateRequest,
}


class Sfu:
    """Implements the API for an app, in asyncio's thread."""

    def __init__(self, api: Api, peers: Peers) -> None:
        self.api = api
        self.sessions: dict[str, Session] = {}
        self._peers = peers
        self._relay = MediaRelay()

    async def answer(self, asked: Asked) -> Reply:
        """The API's answer; called in Trio's thread."""
        path = asked.path.removeprefix(f"/v1/apps/{APP}/")
        if path == asked.path:
            return 404, {"errorCode": "not_found", "errorDescription": "No such app"}
        if (asked.method, path) == ("POST", "sessions/new"):
            assert asked.body is None
            return 201, {"sessionId": await self._peers.call(self._new())}
        _, session_id, *rest = path.split("/", 2)
        session = self.sessions.get(session_id)
        if session is None:
            return 410, {"errorCode": "session_error", "errorDescription": "Session has ended"}
        try:
            kind = REQUESTS[asked.method, "".join(rest)]
            request = msgspec.convert(asked.body, kind) if kind else None
            return 200, await self._peers.call(self._do(session, request))
        except (KeyError, AssertionError, msgspec.ValidationError) as error:
            self.api.wrong.append(f"{asked.method} {asked.path} {error!r} {asked.body}")
            return 406, {"errorCode": "invalid_params", "errorDescription": repr(error)}

    async def _do(self, session: Session, request: Struct | None) -> object:
        if request is not None and not isinstance(request, CloseRequest):
            answers = isinstance(request, RenegotiateRequest)
            if isinstance(request, RenegotiateRequest):
                answers = request.sessionDescription.type == "answer"
            assert session.is_offered is answers, "offers and answers must alternate"
        match request:
            case None:
                return self.state(session)
            case TracksRequest(sessionDescription=Description()):
                return await self.publish(session, request)
            case TracksRequest():
                return await self.subscribe(session, request)
            case RenegotiateRequest():
                return await self.renegotiate(session, request)
            case CloseRequest():
                return await self.close_tracks(session, request)
            case UpdateRequest():
                return await self.update(session, request)
        raise AssertionError(request)

    async def _new(self) -> str:
        session_id = uuid4().hex
        session = self.sessions[session_id] = Session()

        @session.pc.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            mid = next(t.mid for t in session.pc.getTransceivers() if t.receiver.track is track)
            session.incoming[str(mid)] = track

        return session_id

    async def publish(self, session: Session, request: TracksRequest) -> object:
        assert isinstance(request.sessionDescription, Description)
        assert request.sessionDescription.type == "offer"
        mids = set(re.findall(r"^a=mid:(\S+)", request.sessionDescription.sdp, re.MULTILINE))
        for track in request.tracks:
            assert (track.location, track.sessionId) == ("local", UNSET)
            assert track.mid in mids
            assert track.trackName not in session.names.values()
        answer = await self._answer(session, request.sessionDescription)
        session.names |= {str(track.mid): track.trackName for track in request.tracks}
        named = [{"trackName": track.trackName, "mid": track.mid} for track in request.tracks]
        return {
            "requiresImmediateRenegotiation": False,
            "tracks": named,
            "sessionDescription": answer,
        }

    async def _answer(self, session: Session, given: Description) -> dict[str, str]:
        await session.pc.setRemoteDescription(RTCSessionDescription(given.sdp, given.type))
        await session.pc.setLocalDescription(await session.pc.createAnswer())
        return {"type": "answer", "sdp": session.pc.localDescription.sdp}

    def _source(self, session_id: str, name: str) -> MediaStreamTrack | None:
        """The incoming track of another session, if it receives any media."""
        session = self.sessions.get(session_id)
        if session is None or session.pc.connectionState != "connected":
            return None
        mids = {known: mid for mid, known in session.names.items() if mid not in session.closed}
        return session.incoming.get(mids.get(name, ""))

    async def subscribe(self, session: Session, request: TracksRequest) -> object:
        assert request.sessionDescription is UNSET
        results: list[dict[str, str]] = []
        added: list[tuple[RTCRtpSender, str, str]] = []
        for track in request.tracks:
            assert (track.location, track.mid) == ("remote", UNSET)
            assert isinstance(track.sessionId, str)
            result = {"sessionId": track.sessionId, "trackName": track.trackName}
            results.append(result)
            source = self._source(track.sessionId, track.trackName)
            if source is None:
                result |= {"errorCode": "not_found_track_error", "errorDescription": "No media"}
                continue
            copy = Forwarded(self._relay.subscribe(source, buffered=False))
            sender = session.pc.addTransceiver(copy, "sendonly").sender
            added.append((sender, track.sessionId, track.trackName))
        if not added:
            return {"requiresImmediateRenegotiation": False, "tracks": results}
        await session.pc.setLocalDescription(await session.pc.createOffer())
        session.is_offered = True
        for sender, source_id, name in added:
            mid = str(next(t.mid for t in session.pc.getTransceivers() if t.sender is sender))
            session.remote[mid] = (source_id, name)
            next(each for each in results if each["trackName"] == name)["mid"] = mid
        # The API does not promise `a=msid`, which a page needs.
        sdp = re.sub(r"a=msid:.*\r\n", "", session.pc.localDescription.sdp)
        return {
            "requiresImmediateRenegotiation": True,
            "tracks": results,
            "sessionDescription": {"type": "offer", "sdp": sdp},
        }

    async def renegotiate(self, session: Session, request: RenegotiateRequest) -> object:
        given = request.sessionDescription
        if given.type == "offer":
            return {"sessionDescription": await self._answer(session, given)}
        await session.pc.setRemoteDescription(RTCSessionDescription(given.sdp, given.type))
        session.is_offered = False
        return {}

    async def close_tracks(self, session: Session, request: CloseRequest) -> object:
        answer: dict[str, object] = {"requiresImmediateRenegotiation": False}
        if isinstance(request.sessionDescription, Description):
            answer["sessionDescription"] = await self._answer(session, request.sessionDescription)
        assert request.force is ("sessionDescription" not in answer)
        results = answer["tracks"] = []
        for mid in (track.mid for track in request.tracks):
            if mid in session.closed or mid not in {*session.names, *session.remote}:
                results.append({"mid": mid, "errorCode": "close_track_error"})
                continue
            session.closed.add(mid)
            results.append({"mid": mid})
            for transceiver in session.pc.getTransceivers():
                if transceiver.mid == mid:
                    transceiver.sender.replaceTrack(None)
        return answer

    async def update(self, session: Session, request: UpdateRequest) -> object:
        results = []
        for track in request.tracks:
            assert track.mid in session.remote
            assert isinstance(track.sessionId, str)
            source = self._source(track.sessionId, track.trackName)
            assert source is not None
            for transceiver in session.pc.getTransceivers():
                if transceiver.mid == track.mid:
                    cast(Forwarded, transceiver.sender.track).source = self._relay.subscribe(
                        source, buffered=False
                    )
            session.remote[str(track.mid)] = (track.sessionId, track.trackName)
            results.append(msgspec.to_builtins(track))
        return {"requiresImmediateRenegotiation": False, "tracks": results}

    def state(self, session: Session) -> object:
        def status(mid: str) -> str:
            return "inactive" if mid in session.closed else "active"

        local = [
            {"location": "local", "mid": mid, "trackName": name, "status": status(mid)}
            for mid, name in session.names.items()
        ]
        remote = [
            {
                "location": "remote",
                "mid": mid,
                "sessionId": source,
                "trackName": name,
                "status": status(mid),
            }
            for mid, (source, name) in session.remote.items()
        ]
        return {"tracks": [*local, *remote], "dataChannels": []}

    async def end(self, session_id: str) -> None:
        """End a session, as when it expires or loses its connection."""
        await self._peers.call(self.sessions.pop(session_id).pc.close())


@asynccontextmanager
async def open_sfu(peers: Peers) -> AsyncIterator[Sfu]:
    async with open_api() as api:
        sfu = Sfu(api, peers)
        api.answer = sfu.answer
        yield sfu
        for session_id in tuple(sfu.sessions):
            await sfu.end(session_id)
