"""The core's vocabulary: commands in, events out.

A dialect turns a client's text into commands; the hub turns commands into
events; each dialect turns events into its own text. All messages are immutable
values without behaviour. Offers, answers and candidates are `msgspec.Raw`:
their bytes are passed on unchanged, and never parsed.

Times are RFC 3339 strings in UTC with milliseconds and ``Z``, made once per event.
"""
