"""The core's vocabulary: commands in, events out.

A dialect turns a client's text into commands; the hub turns commands into
events; each dialect turns events into its own text. Everything here is an
immutable value without behaviour, and offers, answers and candidates are
`msgspec.Raw`: carried byte for byte, never parsed.

Times are RFC 3339 strings, UTC, milliseconds, ``Z``: made once per event.
"""
