"""Janus as a media server: its VideoRoom, by its WebSocket API; versions 1.1.2 and later."""

from trio_signal.relay.janus.node import JanusNode

__all__ = ["JanusNode"]
