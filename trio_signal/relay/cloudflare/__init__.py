"""Cloudflare Realtime as a media server: `cloudflare:APP_ID`, by HTTPS.

For those who have no machine that UDP reaches. A *session* at its API is a peer connection, and a
feed is the session by which a broadcaster's media come in. What differs from other media servers:

- It takes no candidates, and gives none later: its own are in its descriptions, and it learns a
  browser's from the checks that it gets. So `candidate` does nothing.
- It does not say when a connection is made. That media come in is known when another session can
  subscribe to them: then an ingest is `Up`. A viewing is `Up` when its answer was accepted; if it
  never connects, the session expires, and that is `Lost`.
- Media do not depend on the API. If that is silent, what is asked fails, and the node is degraded;
  nobody loses what is there. A leg is lost when the API says that its session is gone.
- There are no events: a feed's tracks are looked at every two seconds, a viewer's session every
  ten. A viewing gets a new track in place of one of the same kind without an offer, and one of
  another kind by `Offered`.

A session is changed by one request at a time, as the API demands: an offer is done with when it
was answered.
"""

from trio_signal.relay.cloudflare.node import CloudflareNode, open_cloudflare_node

__all__ = ["CloudflareNode", "open_cloudflare_node"]
