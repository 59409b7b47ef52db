"""URLs of media servers, as the settings have them."""

import re
from urllib.parse import urlsplit

#: The last one is for tests: it carries nothing.
_RELAY_URL = re.compile(r"(janus\+wss?://|memory:).|cloudflare:[a-z0-9_-]{1,64}$", re.IGNORECASE)


def read_relay_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    """The URLs of media servers, each once; raises ValueError."""
    if not all(map(_is_relay_url, urls)):
        raise ValueError(
            "must list media servers, as janus+ws://HOST:8188, janus+wss://HOST or "
            "cloudflare:APP_ID"
        )
    return tuple(dict.fromkeys(urls))


def _is_relay_url(url: str) -> bool:
    if not url.lower().startswith("janus"):
        return _RELAY_URL.match(url) is not None
    try:
        parts = urlsplit(url)
        return bool(_RELAY_URL.match(url) and parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port, or no address in the brackets
        return False
