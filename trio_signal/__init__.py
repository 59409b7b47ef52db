"""WebRTC signaling and live broadcast on Trio."""

__version__ = "0.2.0"
