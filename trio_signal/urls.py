"""URLs of media servers, as the settings have them."""

import re

#: The last one is for tests: it carries nothing.
_RELAY_URL = re.compile(r"(janus\+wss?://|cloudflare:|memory:).", re.IGNORECASE)


def read_relay_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    """The URLs of media servers, each once; raises ValueError."""
    if not all(map(_RELAY_URL.match, urls)):
        raise ValueError(
            "must list media servers, as janus+ws://HOST:8188, janus+wss://HOST or "
            "cloudflare:APP_ID"
        )
    return tuple(dict.fromkeys(urls))
