"""Where a request comes from."""

from quart import request

from trio_signal.config import Settings
from trio_signal.limits import client_address


def request_address(settings: Settings) -> str:
    """The address of who sends the current request, as the trusted proxies say."""
    forwarded = request.headers.getlist("X-Forwarded-For")
    return client_address(request.remote_addr or "", forwarded, settings.trusted_proxies)
