"""WebRTC signaling and live broadcast on Trio."""

__version__ = "0.1.0"
