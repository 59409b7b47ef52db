"""Cloudflare Realtime as a media server: `cloudflare:APP_ID`, over HTTPS.

For operators without a machine that UDP can reach. A *session* at its API is a peer connection; a
feed is the session that receives a broadcaster's media. It differs from other media servers:

- It accepts no candidates, and sends none later: its own are in its descriptions, and it learns a
  browser's from connectivity checks. So `candidate` does nothing.
- It does not report when a connection is made. An ingest is `Up` when another session can subscribe
  to its media. A viewing is `Up` when its answer was accepted; if it never connects, the session
  expires, which is `Lost`.
- Media do not depend on the API. While the API is silent, requests fail and the node is degraded;
  running legs continue. A leg is lost when the API says that its session is gone.
- There are no events: a feed's tracks are polled every two seconds, a viewer's session every ten. A
  new track replaces one of the same kind without an offer; a track of another kind needs `Offered`.

A session is changed by one request at a time, as the API demands: a change that makes an offer is
complete when the offer is answered.
"""

from trio_signal.relay.cloudflare.node import CloudflareNode, open_cloudflare_node

__all__ = ["CloudflareNode", "open_cloudflare_node"]
