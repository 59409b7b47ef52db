"""Janus as a media server: its VideoRoom, by its WebSocket API; versions 1.1.2 and later."""

from trio_signal.relay.janus.node import JanusNode, open_janus_node

__all__ = ["JanusNode", "open_janus_node"]
