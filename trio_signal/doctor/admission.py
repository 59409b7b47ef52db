"""Mistakes in authentication and access."""

from trio_signal.config import MIN_API_KEY, short_api_keys
from trio_signal.doctor.facts import Facts, UsersFacts
from trio_signal.doctor.verdicts import Verdict, fail, is_public, ok, warn

#: How many different bytes a random secret of 32 bytes has at least.
_MIN_DISTINCT = 12


def mode(facts: Facts) -> Verdict:
    """Open mode that others can reach."""
    if facts.settings.wants_tokens:
        return ok("only clients with a token are admitted")
    if is_public(facts):
        return fail(
            "open mode in public: anybody can impersonate anybody, in any room",
            "set TRIO_SIGNAL_JWT_SECRET=$(openssl rand -base64 48), "
            "and TRIO_SIGNAL_USERS_FILE for the built-in login",
        )
    return ok(f"open mode, on {facts.settings.host} only")


def secret(facts: Facts) -> Verdict | None:
    """A secret that is long but easy to guess."""
    if facts.settings.jwt_secret is None:
        return None
    text = facts.settings.jwt_secret.get_secret_value()
    words = [word for word in ("secret", "change", "example", "password") if word in text.lower()]
    if len(set(text)) < _MIN_DISTINCT or words:
        return fail(
            "TRIO_SIGNAL_JWT_SECRET is easy to guess, and whoever knows it can make tokens",
            "use a random one: openssl rand -base64 48",
        )
    return ok("the secret is long and looks random")


def api_keys(facts: Facts) -> Verdict | None:
    """Secrets of API keys that are too short."""
    short = short_api_keys(facts.settings)
    if short:
        return warn(
            f"the secrets of the API keys {', '.join(map(ascii, short))} are shorter than "
            f"{MIN_API_KEY} bytes, and whoever knows one can act on all rooms",
            "use random ones: openssl rand -hex 32",
        )
    return ok("the API keys are long") if facts.settings.api_keys is not None else None


def audience(facts: Facts) -> Verdict | None:
    """Keys that also sign tokens for other services."""
    settings = facts.settings
    if settings.jwks_url is None and settings.jwt_public_key is None:
        return None
    if settings.jwt_issuer is None or settings.jwt_audience is None:
        return warn(
            "a token issued for another service is valid here too",
            "set TRIO_SIGNAL_JWT_ISSUER and TRIO_SIGNAL_JWT_AUDIENCE",
        )
    return ok("tokens must be issued for this service")


def key_set(facts: Facts) -> Verdict | None:
    """A key set that cannot be read, or has only keys of unsupported algorithms."""
    if facts.settings.jwks_url is None:
        return None
    if facts.key_set is not None:
        return fail(
            f"TRIO_SIGNAL_JWKS_URL: {facts.key_set}",
            "it must be reachable from here by https, and contain a key for RS256, ES256 or EdDSA",
        )
    return ok("the key set can be read")


def users(facts: Facts) -> Verdict | None:
    """A users file that is unreadable, readable by everybody, or empty."""
    match facts.users:
        case None:
            return None
        case UsersFacts(readable=True):
            return warn(
                "other users of this machine can read the users file",
                f"chmod 600 {facts.settings.users_file}",
            )
        case UsersFacts(users=0):
            return warn("there are no users yet", "trio-signal user add NAME")
        case UsersFacts(users=number):
            return ok(f"{number} users may log in")
        case problem:
            return fail(
                f"TRIO_SIGNAL_USERS_FILE: {problem}", "let the server's user read and write it"
            )


def passwords(facts: Facts) -> Verdict | None:
    """Passwords that are easy to guess."""
    if not isinstance(facts.users, UsersFacts) or not facts.users.users:
        return None
    if facts.users.guessed:
        return fail(
            f"the passwords of {', '.join(facts.users.guessed)} are easy to guess",
            "trio-signal user add NAME sets a new one",
        )
    return ok("no password is easy to guess")


def origins(facts: Facts) -> Verdict | None:
    """`*` together with a login by cookie."""
    settings = facts.settings
    if "*" not in settings.allowed_origins:
        return ok("pages of the listed origins, and the server's own, may connect")
    if settings.users_file is not None:
        return warn(
            "TRIO_SIGNAL_ALLOWED_ORIGINS=* does not hold for the login's cookie: "
            "pages of other sites can connect, but are not logged in",
            "list the origins instead: https://app.example.com,https://*.example.com",
        )
    if not settings.wants_tokens and is_public(facts):
        return warn(
            "pages of all sites may connect, without a token",
            "list the origins in TRIO_SIGNAL_ALLOWED_ORIGINS",
        )
    return ok("pages of all origins may connect, with a token")


def metrics_token(facts: Facts) -> Verdict | None:
    """Metrics that everybody can read."""
    if facts.settings.metrics_token is not None:
        return ok("/metrics requires a token")
    if not is_public(facts):
        return None
    return warn(
        "everybody can read /metrics", "set TRIO_SIGNAL_METRICS_TOKEN, or do not forward the path"
    )
