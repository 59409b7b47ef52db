"""Service: carries out the commands of sessions' dialects."""

import logging
from collections.abc import Iterable, Iterator
from typing import assert_never

import trio
from msgspec.structs import replace

from trio_signal.alarm import NEVER, Alarms
from trio_signal.announcements import Announcements
from trio_signal.auth import Auth
from trio_signal.clock import utc_now
from trio_signal.config import Settings
from trio_signal.errors import (
    AuthenticationError,
    CloseCode,
    IdentityMismatchError,
    NotResumedError,
    Reason,
)
from trio_signal.hub import Hub
from trio_signal.ice import ice_servers
from trio_signal.messages.commands import (
    Acknowledge,
    Action,
    Appear,
    AskAnnouncement,
    AskLive,
    Authenticate,
    Blocking,
    Claim,
    Close,
    Confirm,
    HearAnnouncements,
    IdlePing,
    Join,
    Malformed,
    Move,
    OpenInbox,
    Publish,
    RejoinRooms,
    Release,
    Renew,
    ReportQuality,
    Resume,
    Send,
    SendPrivate,
    SendReceipt,
    SetPrivateTyping,
    Signal,
    SignalName,
    Subscribe,
    Unsubscribe,
)
from trio_signal.messages.events import NotResumed, NotResumedReason, Refusal, Refused, Renewed
from trio_signal.messages.identity import Identity, ServerInfo, is_internal
from trio_signal.metrics import Metrics
from trio_signal.participant import Stay
from trio_signal.readers import Readers
from trio_signal.resuming import confirm, discount
from trio_signal.rounds import Rounds
from trio_signal.session import GOING_AWAY, Carrier, Goodbye, Session, goodbye_of

logger = logging.getLogger(__name__)

#: Number of consecutive malformed messages that end a session.
MAX_MALFORMED = 50
#: Tokens that a quality report costs, so that nobody sends many more than are asked for.
REPORT_COST = 10.0
#: Reasons that suggest that a client guesses ids.
_GUESSED = (NotResumedReason.UNKNOWN, NotResumedReason.OTHER_IDENTITY)


class Service:
    """Carries out commands, for all sessions of a server."""

    def __init__(
        self,
        hub: Hub,
        auth: Auth,
        settings: Settings,
        metrics: Metrics,
        rounds: Rounds,
        alarms: Alarms,
        readers: Readers,
    ) -> None:
        """Take the parts of the server. The caller runs them."""
        self.hub = hub
        self.settings = settings
        self.metrics = metrics
        self.rounds = rounds
        self.alarms = alarms
        self.readers = readers
        self._auth = auth

    async def run(self, session: Session, carrier: Carrier) -> None:
        """Run a session until it ends, or another task takes it over; its rooms are left by then.

        The connection carries this session, or continues the client's earlier one. If the
        connection is lost, the session waits in its rooms for another connection, until its grace
        period is over. The closing handshake comes last, so it delays nobody else.
        """
        with self.hub.stay(session) as stay:
            await carrier.carry()
            carried = stay.participant
            if not isinstance(carried, Session):
                # Another connection or, since this server is stopping, another replica has it.
                if self.hub.rooms.is_stopping:
                    goodbye = Goodbye(GOING_AWAY, is_reply=False)
                    await carrier.say_goodbye(goodbye)
                return
            session = carried
            goodbye = goodbye_of(session)
            if self.hub.resuming.lose(session):
                await self._wait(stay, session, carrier, goodbye)
                return
        await carrier.say_goodbye(goodbye)

    async def _wait(self, stay: Stay, session: Session, carrier: Carrier, goodbye: Goodbye) -> None:
        """Wait until another task has taken the session, or its grace period is over."""
        with trio.move_on_at(self.hub.resuming.until(session)) as scope:
            session.live_in(scope)
            await carrier.say_goodbye(goodbye)
            carrier.close()
            await trio.sleep_forever()
        if stay.participant is not None:
            session.pass_time(trio.current_time())  # its token may have expired too
            self.hub.resuming.expire(session)

    def pass_time(self, session: Session, now: float) -> None:
        """Do what is due for a session at this time. Does not block."""
        session.pass_time(now)
        negotiations = session.negotiations
        if negotiations is not None and now >= negotiations.due:
            self.hub.signals.pass_time(session, negotiations, now)

    async def perform(self, session: Session, actions: Iterable[Action]) -> None:
        """Carry out actions of the dialect; may block on the bus or on a key set."""
        left = iter(actions)
        while (blocking := self.perform_nowait(session, left)) is not None:
            await self.perform_blocking(session, blocking)

    def perform_nowait(self, session: Session, actions: Iterator[Action]) -> Blocking | None:
        """Carry out actions until one may block; return that one. Does not block.

        The caller carries it out with `perform_blocking`, and calls this again for the rest.
        """
        hub = self.hub
        for action in actions:
            match action:
                case Signal():  # first, since most commands are signals
                    hub.handle(session, action)
                case SignalName():
                    hub.names.send(session, action)
                case Malformed(text=text, counted=counted):
                    if not counted:
                        discount(session)
                    if text:
                        session.answer(text)
                    self._count_malformed(session)
                    return None
                case Send(text=text):
                    session.answer(text)
                case Confirm():
                    session.tell(confirm(session, action))
                case ReportQuality():
                    session.owes += REPORT_COST
                    if self.settings.quality_interval:
                        self.metrics.count_quality(action)
                case HearAnnouncements():
                    self._announcements.subscribe(session)
                case Appear():
                    hub.online.add(session)
                case Move():
                    hub.online.move(session, action)
                case Acknowledge():
                    self._announcements.note(session, action.announcement_id)
                case Release():
                    hub.names.remove(session, hold=False)
                case Unsubscribe():
                    hub.topics.unsubscribe(session, action)
                case Publish():
                    hub.topics.publish(session, action)
                case IdlePing():
                    session.deadlines.idle_ping = action
                    session.deadlines.put_off_idle_ping()
                    session.wake(session.deadlines.idle_ping_at)
                case Close():
                    session.close(action)
                case (
                    (Join() | Authenticate() | Renew() | AskLive() | RejoinRooms() | OpenInbox())
                    | (SendPrivate() | SetPrivateTyping() | SendReceipt())
                    | (AskAnnouncement() | Claim() | Subscribe())
                ):
                    return action
                case _:
                    hub.handle(session, action)
        session.malformed = 0
        return None

    async def perform_blocking(self, session: Session, action: Blocking) -> None:
        """Carry out an action that may block on the bus, the database or a key set."""
        hub = self.hub
        match action:
            case Join():
                await hub.join(session, action)
            case Authenticate():
                await self._authenticate(session, action)
            case Renew():
                discount(session)
                await self._renew(session, action)
            case AskLive():
                await hub.live.ask(session, action)
            case RejoinRooms():
                await self.rejoin(session)
            case OpenInbox():
                await hub.open_inbox(session, action)
            case SendPrivate() | SetPrivateTyping() | SendReceipt():
                await hub.tell_user(session, action)
            case AskAnnouncement():
                await self._announcements.show(session)
            case Claim():
                await hub.names.claim(session, action)
            case Subscribe():
                await hub.topics.subscribe(session, action)
            case _:
                assert_never(action)

    @property
    def _announcements(self) -> Announcements:
        """The announcements of the hub; a dialect that needs them is off without them."""
        assert self.hub.announcements is not None  # noqa: S101
        return self.hub.announcements

    async def _authenticate(self, session: Session, claims: Authenticate) -> None:
        try:
            identity = await self._auth.authenticate(
                replace(claims, token=claims.token or session.token)
            )
        except AuthenticationError as error:
            self._count_failure(session)
            session.close(session.dialect.authentication_failed(error))
            return
        session.lease.authenticated()
        settings = self.settings
        ice = ice_servers(settings, identity.user_id, self.hub.turn)
        info = ServerInfo(
            ice,
            settings.heartbeat,
            quality=settings.quality_interval,
            relays=self.hub.relays is not None,
        )
        if claims.resume is not None:
            if await self._resume(session, identity, claims, claims.resume):
                return
            if self.hub.resuming.grace > 0:
                info = replace(info, session=self.hub.resuming.open(session, identity, claims))
        session.identity = identity
        session.deadlines.authenticate_by = NEVER
        logger.debug("connection opened", extra=session.names())
        await self.perform(session, session.dialect.authenticated(identity, info, utc_now()))
        # Only after the client knows that it is authenticated: the warning may come at once.
        self._watch_expiry(session, identity)

    async def _resume(
        self, newcomer: Session, identity: Identity, claims: Authenticate, resume: Resume
    ) -> bool:
        """Resume the client's earlier session; return whether that succeeded."""
        if resume.session_id is None:
            return False
        now, lease = trio.current_time(), newcomer.lease
        if not lease.may_resume(now):
            self.metrics.count_refused(Reason.RESUMES_PER_IP)
            newcomer.tell(NotResumed(NotResumedReason.UNKNOWN))
            return False
        try:
            resumed = await self.hub.resume(newcomer, identity, claims, resume)
        except NotResumedError as error:
            if error.reason in _GUESSED:
                lease.failed_to_resume(now)
            newcomer.tell(NotResumed(error.reason))
            return False
        if identity.verified:
            resumed.identity = identity
            self._watch_expiry(resumed, identity)
        return True

    async def _renew(self, session: Session, command: Renew) -> None:
        """Continue the session with a new token; an invalid token changes nothing."""
        old = session.identity
        if old is None or not old.verified:
            return
        try:
            identity = await self._auth.authenticate(
                Authenticate(old.user_id, command.token, claimed=old.user_id)
            )
            # The same `sub` from another issuer is another user.
            if identity.subject != old.subject:
                raise IdentityMismatchError("Identity mismatch")
        except AuthenticationError:
            self._count_failure(session)
            session.tell(Refused(command, Refusal.INVALID_TOKEN, utc_now()))
            return
        entered = (room_id for room_id in session.memberships if not is_internal(room_id))
        if not all(identity.grants.admit(room_id) for room_id in entered):
            session.tell(Refused(command, Refusal.INVALID_TOKEN, utc_now()))
            return
        session.identity = identity
        self._watch_expiry(session, identity)
        session.tell(Renewed(session.deadlines.seconds_left))

    def _watch_expiry(self, session: Session, identity: Identity) -> None:
        session.deadlines.watch_expiry(identity)
        session.wake(session.deadlines.warn_at)

    def _count_malformed(self, session: Session) -> None:
        self.metrics.count_refused(Reason.MALFORMED)
        session.malformed += 1
        if session.malformed >= MAX_MALFORMED:
            session.close(Close(CloseCode.POLICY, "Too many malformed messages"))

    def _count_failure(self, session: Session) -> None:
        self.metrics.count_refused(Reason.AUTHENTICATION)
        session.lease.failed(trio.current_time())

    async def rejoin(self, session: Session, room_ids: tuple[str, ...] = ()) -> None:
        """Let the session rejoin these rooms, and those that its user was in; blocks on the bus.

        If its client rejoins by itself, restore only the user's broadcasts.
        """
        if session.dialect.resumes != "rooms":
            await self.hub.resume_live(session)
            return
        rooms = dict.fromkeys([*room_ids, *await self.hub.rooms_to_rejoin(session)])
        await self.perform(session, session.dialect.rejoin(tuple(rooms)))
