"""Janus as a media server: its VideoRoom plugin over its WebSocket API; version 1.1.2 or later."""

from trio_signal.relay.janus.node import JanusNode, open_janus_node

__all__ = ["JanusNode", "open_janus_node"]
