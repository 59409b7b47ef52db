"""Every setting, its environment variable, its default."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    FilePath,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from trio_signal.dialects import DIALECTS
from trio_signal.hosts import host_of, is_loopback, is_of_this_machine, name_of, origin_matches
from trio_signal.keys import read_api_keys, read_public_key, secret_key
from trio_signal.urls import (
    HOSTED_TURN,
    read_relay_urls,
    read_stun_urls,
    read_turn_urls,
    read_webhook_urls,
)

#: The prefix of our own variables.
PREFIX = "TRIO_SIGNAL_"
CommaList = Annotated[tuple[str, ...], NoDecode]
_PeerJsKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

#: Minimum bytes of an API key's secret. With fewer the server starts, and warns.
MIN_API_KEY = 32
#: Default budget of an address, as a multiple of that of one connection.
ADDRESS_FACTOR = 20
#: Default seconds before a stopping server stops accepting, if there are other replicas.
_PAUSE = 3.0
_ORIGIN = re.compile(r"\*|https?://(\*\.)?[^/*\s]+")
_REDIS_URL = re.compile(r"((redis|valkey)s?|rediss?\+sentinel|unix)://.", re.IGNORECASE)
_DATABASE_URL = re.compile(r"(sqlite:///|postgres(ql(\+psycopg)?)?://).", re.IGNORECASE)


class Settings(BaseSettings):
    """The settings of one server, read from the environment.

    The platform's names stand alone (`PORT`); ours begin with `TRIO_SIGNAL_`.
    `tools.print_settings` prints the headings and comments of the fields into docs/settings.md.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # platforms set missing values to an empty text
        frozen=True,
        extra="ignore",
    )

    # Address and log

    #: Address to listen on.
    host: str = "127.0.0.1"
    #: Port to listen on; 0 picks a free one.
    port: int = Field(8000, ge=0, le=65535, validation_alias=AliasChoices("PORT"))
    #: `debug`, `info`, `warning` or `error`.
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias=AliasChoices("LOG_LEVEL")
    )
    #: `console` for people, `json` for machines; one entry a line, to standard error.
    log_format: Literal["console", "json"] = Field(
        "console", validation_alias=AliasChoices("LOG_FORMAT")
    )

    # Replicas and storage

    #: Number of workers: replicas on this machine that share the port; more than one requires
    #: `REDIS_URL`.
    workers: int = Field(1, ge=1, le=256, validation_alias=AliasChoices("WEB_CONCURRENCY"))
    #: Set by the parent of several workers; do not set it yourself.
    worker: bool = False
    #: Redis or Valkey server that joins any number of replicas into one service: `redis://`,
    #: `rediss://`, `valkey://`, `valkeys://`, `unix://`,
    #: `redis+sentinel://HOST,HOST/SERVICE` or `rediss+sentinel://`.
    redis_url: SecretStr | None = Field(None, validation_alias=AliasChoices("REDIS_URL"))
    #: Prefix of all key and channel names.
    redis_prefix: str = ""
    #: Certificate authority of a `rediss://` server whose certificate no public authority
    #: signed.
    redis_ca_file: FilePath | None = None
    #: Seconds without a renewal after which a replica counts as dead.
    lease: float = Field(10, ge=1, allow_inf_nan=False)
    #: Database for announcements and, without Redis, for the members to restore after a restart:
    #: `sqlite:///file`, or `postgresql://` (also `postgres://`) with the extra `postgres`.
    database_url: SecretStr = Field(
        SecretStr("sqlite:///trio-signal.db"), validation_alias=AliasChoices("DATABASE_URL")
    )

    # Who may connect

    #: `open` trusts every client; `token` requires a token signed by one of the keys. If
    #: unset: `token` with a key, `open` without.
    auth: Literal["open", "token"] | None = None
    #: Key of HS256 tokens, 32 bytes or more.
    jwt_secret: SecretStr | None = None
    #: Public key of RS256, ES256 or EdDSA tokens: PEM, or the path of a PEM file.
    jwt_public_key: str | None = None
    #: The https URL of the key set that verifies tokens.
    jwks_url: str | None = None
    #: Required value of `iss` in a token.
    jwt_issuer: str | None = None
    #: Value that `aud` in a token must contain.
    jwt_audience: str | None = None
    #: File with the users of the built-in login; setting it turns the login on. Requires
    #: `TRIO_SIGNAL_JWT_SECRET`.
    users_file: Path | None = None
    #: Origins whose pages may connect, besides the server's own; a comma-separated list of
    #: `https://app.example.com`, `https://*.example.com` (its subdomains) or `*` (all).
    allowed_origins: CommaList = ()
    #: Number of proxies in front whose `X-Forwarded-For` is trusted for the client's
    #: address.
    trusted_proxies: int = Field(0, ge=0, le=16)
    #: Comma-separated list of enabled dialects; the HTTP calls of the others are off too.
    dialects: CommaList = tuple(DIALECTS)
    #: Comma-separated list of the keys that `peerjs` clients may use; clients with different
    #: keys do not meet.
    peerjs_keys: Annotated[tuple[_PeerJsKey, ...], NoDecode] = ("peerjs",)
    #: Whether `GET /rooms` lists the rooms to everybody.
    list_rooms: bool = True
    #: Whether a broadcaster in the dialect `live` is told about listeners that wait for an
    #: offer.
    live_listeners: bool = True

    # Limits

    #: Maximum size in bytes of one message from a client.
    max_message_bytes: int = Field(131072, ge=1024)
    #: Messages a second that a connection may send; excess messages wait unread, and a client that
    #: never slows down is disconnected.
    messages_per_second: float = Field(50, gt=0)
    #: Messages that a connection may send at once after a silence.
    message_burst: int = Field(200, ge=1)
    #: Messages a second that all connections from one address together may send. If unset: 20
    #: times `TRIO_SIGNAL_MESSAGES_PER_SECOND`.
    messages_per_ip_per_second: float | None = Field(None, gt=0)
    #: Messages that all connections from one address together may send at once after a silence.
    #: If unset: 20 times `TRIO_SIGNAL_MESSAGE_BURST`.
    message_burst_per_ip: int | None = Field(None, ge=1)
    #: HTTP requests a second that an address may send; the excess gets 429. Health checks do not
    #: count.
    http_requests_per_second: float = Field(50, gt=0)
    #: HTTP requests that an address may send at once after a silence.
    http_burst: int = Field(200, ge=1)
    #: Concurrent WebSockets; more are refused with 503.
    max_connections: int = Field(20000, ge=1)
    #: Concurrent WebSockets from one address; more are refused with 429.
    max_connections_per_ip: int = Field(200, ge=1)
    #: New WebSockets from one address in a minute; more are refused with 429.
    connects_per_ip_per_minute: int = Field(600, ge=1)
    #: WebSockets that have not authenticated yet; more are refused with 503.
    max_unauthenticated: int = Field(1000, ge=1)
    #: Failed authentications from one address in 300 s; then it is refused for 300 s.
    auth_failures_per_ip: int = Field(20, ge=1)
    #: Rooms that one connection may be in.
    max_rooms_per_connection: int = Field(100, ge=1)
    #: Peers in one room.
    max_room_peers: int = Field(5000, ge=1)
    #: Viewers that may join one stream through the dialect `stream`.
    max_viewers: int = Field(50, ge=1)
    #: Bytes that may wait for a slow client before it is disconnected.
    outbox_bytes: int = Field(1048576, ge=4096)

    # Times

    #: Seconds in which a `mesh` client must authenticate.
    auth_timeout: float = Field(10, gt=0)
    #: Seconds between pings.
    heartbeat: float = Field(20, gt=0)
    #: Seconds after a ping in which the client must send something.
    heartbeat_timeout: float = Field(20, gt=0)
    #: Seconds for which a `mesh` client that lost its connection stays in its room, if it
    #: asked to; 0 turns this off.
    resume_grace: float = Field(15, ge=0)
    #: Maximum seconds for a shutdown.
    drain: float = Field(10, ge=0)
    #: Seconds after SIGTERM in which the server still accepts connections while `/readyz`
    #: answers 503, so that a load balancer notices; in addition to `TRIO_SIGNAL_DRAIN`. If
    #: unset: 3 with Redis, else 0.
    drain_pause: float | None = Field(None, ge=0)

    # STUN and TURN

    #: STUN servers offered to clients, a comma-separated list of `stun:host:port`.
    stun_urls: Annotated[CommaList, AfterValidator(read_stun_urls)] = ()
    #: TURN servers offered to clients, a comma-separated list of `turn:host:port`, or
    #: `cloudflare:KEY_ID` for [Cloudflare's](security.md#a-hosted-turn-service); requires
    #: `TRIO_SIGNAL_TURN_SECRET`.
    turn_urls: Annotated[CommaList, AfterValidator(read_turn_urls)] = ()
    #: Secret shared with coturn (`static-auth-secret`); short-lived credentials are derived
    #: from it. For Cloudflare: the API token of the key.
    turn_secret: SecretStr | None = None
    #: Lifetime of TURN credentials in seconds.
    turn_ttl: int = Field(86400, ge=60)

    # Media servers

    #: Media servers that carry broadcasts with many viewers, a comma-separated list of
    #: `janus+ws://HOST:8188` (or `janus+wss://`) and `cloudflare:APP_ID`. See
    #: [media servers](relay.md).
    relay_urls: Annotated[CommaList, AfterValidator(read_relay_urls)] = ()
    #: Viewers of a broadcast that the broadcaster serves directly; later ones get it from a media
    #: server.
    relay_from: int = Field(4, ge=0)
    #: Secret of the media servers: `api_secret` of Janus, or the token of Cloudflare's app.
    relay_token: SecretStr | None = None
    #: Maximum bits a second of a relayed broadcast.
    relay_bitrate: int = Field(2500000, ge=1)
    #: Viewers that may join one stream through the dialect `stream`, in place of
    #: `TRIO_SIGNAL_MAX_VIEWERS`, while a media server is available.
    max_relay_viewers: int = Field(500, ge=1)

    # Backend and metrics

    #: Keys of your backend for the [server API](server/api.md), a comma-separated list of
    #: `id:secret`; without a key the API is off.
    api_keys: SecretStr | None = None
    #: URLs where your backend receives webhooks, a comma-separated list; requires
    #: `TRIO_SIGNAL_API_KEYS`: the first key's secret signs them.
    webhook_urls: Annotated[CommaList, AfterValidator(read_webhook_urls)] = ()
    #: Seconds between reports of browser clients about the quality of their calls; 30 is a good
    #: value, and 0 turns them off.
    quality_interval: float = Field(0, ge=0)
    #: Bearer token required by `GET /metrics`.
    metrics_token: SecretStr | None = None

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator(
        *("allowed_origins", "dialects", "peerjs_keys", "stun_urls", "turn_urls", "webhook_urls"),
        "relay_urls",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(item.strip() for item in value.split(",") if item.strip())
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "must list origins, as https://app.example.com or https://*.example.com, "
                    f"or be *; {origin!r} is not an origin"
                )
        return tuple(origin.lower() for origin in value)

    @field_validator("dialects")
    @classmethod
    def _check_dialects(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value or ("",):
            if name not in DIALECTS:
                raise ValueError(
                    f"must list some of {', '.join(DIALECTS)}; {name!r} is not one of them"
                )
        return tuple(dict.fromkeys(value))

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _REDIS_URL.match(value.get_secret_value()):
            raise ValueError(
                "must begin with redis://, valkey://, redis+sentinel://, the same with TLS "
                "(rediss://, ...), or unix://"
            )
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr) -> SecretStr:
        if not _DATABASE_URL.match(value.get_secret_value()):
            raise ValueError("must be sqlite:///FILE or postgresql://HOST/DATABASE")
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            secret_key(value.get_secret_value())
        return value

    @field_validator("jwt_public_key")
    @classmethod
    def _check_public_key(cls, value: str | None) -> str | None:
        if value is not None:
            read_public_key(value)
        return value

    @field_validator("jwks_url")
    @classmethod
    def _check_jwks_url(cls, value: str | None) -> str | None:
        url = urlsplit(value or "https://x")
        secure = url.scheme == "https" or (url.scheme == "http" and is_loopback(url.hostname or ""))
        if not secure or not url.hostname:
            raise ValueError("must be an https URL; http is allowed for loopback only")
        return value

    @field_validator("api_keys")
    @classmethod
    def _check_api_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            read_api_keys(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _check_webhooks(self) -> Self:
        if self.webhook_urls and self.api_keys is None:
            raise ValueError(
                "TRIO_SIGNAL_WEBHOOK_URLS needs TRIO_SIGNAL_API_KEYS as well: the first key's "
                "secret signs the webhooks"
            )
        return self

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.workers > 1 and self.redis_url is None:
            raise ValueError(
                f"{self.workers} workers (--workers, WEB_CONCURRENCY) need REDIS_URL or "
                "--redis-url, or peers on different workers would not see each other"
            )
        return self

    @model_validator(mode="after")
    def _check_auth(self) -> Self:
        if not self.wants_tokens:
            return self
        if self.users_file is not None and self.jwt_secret is None:
            raise ValueError(
                "TRIO_SIGNAL_USERS_FILE needs TRIO_SIGNAL_JWT_SECRET as well, to sign "
                "its users' tokens; try: openssl rand -base64 48"
            )
        if not self._has_key:
            raise ValueError(
                "TRIO_SIGNAL_AUTH=token needs a key: TRIO_SIGNAL_JWT_SECRET, "
                "TRIO_SIGNAL_JWT_PUBLIC_KEY or TRIO_SIGNAL_JWKS_URL"
            )
        return self

    @model_validator(mode="after")
    def _check_turn(self) -> Self:
        if self.turn_urls and self.turn_secret is None:
            raise ValueError("TRIO_SIGNAL_TURN_URLS needs TRIO_SIGNAL_TURN_SECRET as well")
        return self

    @property
    def messages_of_address_per_second(self) -> float:
        """The messages a second that all connections of an address together may send."""
        given = self.messages_per_ip_per_second
        return self.messages_per_second * ADDRESS_FACTOR if given is None else given

    @property
    def message_burst_of_address(self) -> int:
        """The messages that all connections of an address may send at once after a silence."""
        given = self.message_burst_per_ip
        return self.message_burst * ADDRESS_FACTOR if given is None else given

    @property
    def wants_tokens(self) -> bool:
        """Whether clients need a token: as `auth` says; if unset, whether there is a key."""
        if self.auth is None:
            return self._has_key or self.users_file is not None
        return self.auth == "token"

    @property
    def secrets_by_key(self) -> dict[str, str]:
        """The secrets of the API keys by their ids, the first one first."""
        return read_api_keys(self.api_keys.get_secret_value()) if self.api_keys else {}

    @property
    def _has_key(self) -> bool:
        return any((self.jwt_secret, self.jwt_public_key, self.jwks_url))

    def allows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this `Origin` may connect to a server with this `Host`.

        Programs that are not browsers send no origin; they are allowed.
        """
        if origin is None or "*" in self.allowed_origins:
            return True
        return self.trusts_origin(origin, host)

    def trusts_origin(self, origin: str, host: str | None) -> bool:
        """Whether requests of this `Origin` may use a cookie, which browsers send unasked.

        The origin must be listed by name: `*` admits only pages that send a token deliberately.
        """
        if host and host_of(origin.lower()) == host.lower():
            return True
        return self.names_origin(origin)

    def names_origin(self, origin: str) -> bool:
        """Whether this origin is listed by its name, or matches a name that begins with `*.`."""
        return any(origin_matches(origin.lower(), allowed) for allowed in self.allowed_origins)

    def allows_host(self, host: str | None) -> bool:
        """Whether a request may name this host.

        In open mode on loopback, only this machine can connect, and everything is allowed. But any
        site can let one of its names point to 127.0.0.1 (DNS rebinding); its page then connects
        from its own origin. So only addresses and names of this machine are allowed. Behind a
        proxy, the proxy must check the names.
        """
        if host is None or not self._guards_host or "*" in self.allowed_origins:
            return True
        name = name_of(host)
        if name is None:
            return False
        return is_of_this_machine(name) or any(
            self.names_origin(f"{scheme}://{known}")
            for scheme in ("http", "https")
            for known in (host, name)
        )

    @property
    def _guards_host(self) -> bool:
        open_on_loopback = not self.wants_tokens and is_loopback(self.host)
        return open_on_loopback and not self.trusted_proxies


def pause_before_draining(settings: Settings) -> float:
    """Seconds in which load balancers can notice that this replica is about to stop."""
    default = 0.0 if settings.redis_url is None else _PAUSE
    return default if settings.drain_pause is None else settings.drain_pause


def hosted_turn_key(settings: Settings) -> str | None:
    """The id of the key at Cloudflare's TURN service; None if that is not used."""
    key = HOSTED_TURN.fullmatch(",".join(settings.turn_urls))
    return key[1] if key else None


def short_api_keys(settings: Settings) -> list[str]:
    """The ids of the API keys whose secrets are short enough to be guessed."""
    secrets = settings.secrets_by_key
    return [key_id for key_id, secret in secrets.items() if len(secret.encode()) < MIN_API_KEY]
