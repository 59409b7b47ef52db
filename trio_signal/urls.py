"""URLs of STUN, TURN and media servers and of webhooks, as the settings have them."""

import re
from urllib.parse import urlsplit

#: A key of Cloudflare's TURN service.
HOSTED_TURN = re.compile(r"cloudflare:([A-Za-z0-9_-]{1,64})")
_HOST = r"(\[[0-9a-f:.]+\]|[^\s:/?#@\[\]]+)(:\d{1,5})?"
#: RFC 7064 and RFC 7065. A browser refuses to make a connection if one of its servers has another
#: URL.
_STUN_URL = re.compile(f"stuns?:{_HOST}", re.IGNORECASE)
_TURN_URL = re.compile(rf"turns?:{_HOST}(\?transport=(udp|tcp))?", re.IGNORECASE)
#: The last one is for tests: it carries nothing.
_RELAY_URL = re.compile(r"(janus\+wss?://|memory:).|cloudflare:[a-z0-9_-]{1,64}$", re.IGNORECASE)


def read_stun_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    """The URLs of STUN servers; raises ValueError."""
    if not all(map(_STUN_URL.fullmatch, urls)):
        raise ValueError("must list STUN servers, as stun:HOST or stun:HOST:PORT")
    return urls


def read_turn_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    """The URLs of TURN servers, or a key of Cloudflare's service; raises ValueError."""
    if not HOSTED_TURN.fullmatch(",".join(urls)) and not all(map(_TURN_URL.fullmatch, urls)):
        raise ValueError(
            "must list TURN servers, as turn:HOST:PORT, turns:HOST or "
            "turn:HOST?transport=tcp, or be cloudflare:KEY_ID alone"
        )
    return urls


def read_relay_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    """The URLs of media servers, each once; raises ValueError."""
    if not all(map(_is_relay_url, urls)):
        raise ValueError(
            "must list media servers, as janus+ws://HOST:8188, janus+wss://HOST or "
            "cloudflare:APP_ID"
        )
    return tuple(dict.fromkeys(urls))


def read_webhook_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    """The URLs of webhooks, each once; raises ValueError."""
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError("must list URLs that begin with https:// or http://")
    return tuple(dict.fromkeys(urls))


def _is_relay_url(url: str) -> bool:
    if not url.lower().startswith("janus"):
        return _RELAY_URL.match(url) is not None
    try:
        parts = urlsplit(url)
        return bool(_RELAY_URL.match(url) and parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port, or no address in the brackets
        return False
