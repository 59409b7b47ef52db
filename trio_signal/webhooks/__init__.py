"""Webhooks: inform a site's backend of events in rooms.

No client waits for them. Each event is stored before it is sent, so that it survives a restart. It
is sent until its URL answers with success, or for more than an hour. Each URL receives the events
of one room in order. docs/server/webhooks.md explains the rest.
"""
