"""Mistakes in the machine, the platform, and the proxy."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from trio_signal.config import hosted_turn_key, pause_before_draining
from trio_signal.doctor.facts import Facts, PublicFacts
from trio_signal.doctor.verdicts import Verdict, fail, is_public, ok, warn
from trio_signal.hosts import is_loopback

#: Seconds after which common proxies end an idle connection: Heroku 55, nginx and others 60.
IDLE_TIMEOUT = 55.0
#: Seconds from SIGTERM to SIGKILL on Heroku and Kubernetes. Our server ends at most two seconds
#: after its pause and `DRAIN`.
KILL = 30.0
_GRACE = 2.0
#: Open files besides connections: database, Redis, threads, and HTTP.
_OTHER_FILES = 256
#: The usual limit of a shell.
_FEW_FILES = 1024


def variables(facts: Facts) -> Verdict:
    """Misspelled settings, which the server ignores."""
    return judge_variables(facts.unknown) or ok("each TRIO_SIGNAL_ variable is a setting")


def judge_variables(unknown: Mapping[str, str | None]) -> Verdict | None:
    """Report variables that are not settings, with the nearest setting each; None if none are."""
    if not unknown:
        return None
    nouns = "is not a setting, and is" if len(unknown) == 1 else "are not settings, and are"
    mends = (
        f"did you mean {nearest}?" if nearest else f"remove {variable}; docs/settings.md lists all"
        for variable, nearest in unknown.items()
    )
    return warn(f"{', '.join(unknown)} {nouns} ignored", "; ".join(mends))


def port(facts: Facts) -> Verdict:
    """A port that is in use or not permitted."""
    where = f"{facts.settings.host}:{facts.settings.port}"
    match facts.port:
        case "free":
            return ok(f"{where} is free")
        case "ours":
            return ok(f"a server already runs on {where}")
    return fail(f"{where}: {facts.port}", "stop the other server, or set PORT")


def files(facts: Facts) -> Verdict:
    """Too few file descriptors for the allowed connections."""
    connections = facts.settings.max_connections
    if facts.files < 0 or facts.files >= connections + _OTHER_FILES:  # negative: no limit
        return ok(f"{facts.files} files may be open, for {connections} connections")
    says = f"{facts.files} files may be open, and TRIO_SIGNAL_MAX_CONNECTIONS is {connections}"
    mend = (
        f"ulimit -n {connections + _OTHER_FILES} (systemd: LimitNOFILE, Docker: --ulimit nofile), "
        f"or TRIO_SIGNAL_MAX_CONNECTIONS={max(1, facts.files - _OTHER_FILES)}"
    )
    few = is_public(facts) and facts.files <= _FEW_FILES
    return fail(says, mend) if few else warn(says, mend)


def workers(facts: Facts) -> Verdict:
    """More workers than cores."""
    number = facts.settings.workers
    if number > facts.cores:
        return warn(
            f"{number} workers on {facts.cores} cores compete for them, and everybody waits longer",
            f"set WEB_CONCURRENCY={facts.cores}",
        )
    return ok(f"workers: {number}, cores: {facts.cores}")


def replicas(facts: Facts) -> Verdict | None:
    """Several instances without a connection between them."""
    if facts.settings.redis_url is not None:
        return ok("Redis joins any number of replicas into one service")
    if facts.platform is None:
        return None
    return warn(
        "without REDIS_URL, a second instance would not see the peers of the first",
        f"run one instance, or add a Redis to {facts.platform}",
    )


def proxies(facts: Facts) -> Verdict | None:
    """A proxy that is not trusted, so that all clients count as one address."""
    trusted = facts.settings.trusted_proxies
    if facts.platform is not None and not trusted:
        return fail(
            f"{facts.platform} has a proxy in front, so all clients count as one address, "
            "and share its limits",
            "set TRIO_SIGNAL_TRUSTED_PROXIES=1, plus one for each further proxy",
        )
    if trusted:
        return ok(f"{trusted} proxies are trusted for the client's address")
    return None


def public_address(facts: Facts) -> Verdict | None:
    """A proxy that does not forward WebSockets, or does not encrypt."""
    match facts.public:
        case None:
            return None
        case PublicFacts(status=101, url=url):
            parts = urlsplit(url)
            if parts.scheme == "https" or is_loopback(parts.hostname or ""):
                return ok(f"{url} speaks WebSocket")
            return warn(
                f"{url} is not encrypted: tokens can be read on the way, and browsers do not "
                "allow the camera on its pages",
                "serve https in the proxy",
            )
        case PublicFacts(status=429 | 503 as status, url=url):
            return warn(f"{url} refuses another connection: {status}", "try again later")
        case PublicFacts(status=status, url=url):
            return fail(
                f"{url} answers {status} to a request for a WebSocket",
                "let the proxy forward Upgrade and Connection (nginx: proxy_http_version 1.1; "
                'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade")',
            )
        case problem:
            return fail(f"{problem}", "is the name right, the certificate valid, the proxy up?")


def heartbeat(facts: Facts) -> Verdict:
    """Pings that are rarer than the proxy's idle timeout."""
    seconds = facts.settings.heartbeat
    if seconds < IDLE_TIMEOUT:
        return ok(f"a ping every {seconds:g} s keeps idle connections open")
    idle = f"idle for {IDLE_TIMEOUT:g} to 60 s"
    says = f"a ping every {seconds:g} s: proxies close connections that are {idle}"
    mend = "set TRIO_SIGNAL_HEARTBEAT=20"
    return fail(says, mend) if facts.platform is not None else warn(says, mend)


def drain(facts: Facts) -> Verdict:
    """A shutdown that takes longer than the platform waits."""
    pause = pause_before_draining(facts.settings)
    seconds = pause + facts.settings.drain + _GRACE
    if seconds < KILL:
        return ok(f"the server stops within {seconds:g} s")
    says = f"stopping takes up to {seconds:g} s; platforms kill after {KILL:g} s"
    shorter = "TRIO_SIGNAL_DRAIN=10" if pause < KILL / 2 else "TRIO_SIGNAL_DRAIN_PAUSE=5"
    mend = f"set {shorter}, or make the platform wait longer"
    return fail(says, mend) if facts.platform is not None else warn(says, mend)


def log_level(facts: Facts) -> Verdict | None:
    """A log level that is too detailed."""
    if facts.settings.log_level != "debug":
        return None
    return warn("LOG_LEVEL=debug is slow on a busy server", "set LOG_LEVEL=info")


def turn(facts: Facts) -> Verdict:
    """No TURN server, or one that does not answer."""
    if not facts.settings.turn_urls:
        return warn(
            "there is no TURN server: browsers behind strict firewalls cannot reach each other",
            "run coturn, or make a key at Cloudflare, and set TRIO_SIGNAL_TURN_URLS and "
            "TRIO_SIGNAL_TURN_SECRET",
        )
    silent = {url: problem for url, problem in facts.turn.items() if problem is not None}
    if hosted_turn_key(facts.settings) is not None:
        if not silent:
            return ok("the TURN service issues credentials")
        return fail(
            "; ".join(silent.values()),
            "set TRIO_SIGNAL_TURN_SECRET to the key's API token, and allow https to "
            "rtc.live.cloudflare.com",
        )
    if silent:
        listed = "; ".join(f"{url}: {problem}" for url, problem in silent.items())
        return fail(listed, "start coturn, and open its ports (3478 UDP and TCP)")
    return ok("the TURN servers answer")
