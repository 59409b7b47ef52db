"""Webhooks: a site's backend is told what happens in rooms.

Nothing that clients wait for waits for them. Each event is stored before it is sent, so that it
outlives the server, and is sent until its URL has answered with success, or for an hour and more.
Of one room the events arrive at each URL in their order; docs/server/webhooks.md says the rest.
"""
