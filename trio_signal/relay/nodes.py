"""Nodes: the media servers that the settings name, and on which of them a broadcast lives."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from trio_signal.config import Settings
from trio_signal.messages.relay import RelayLoads
from trio_signal.relay import Node
from trio_signal.relay.cloudflare import open_cloudflare_node
from trio_signal.relay.janus import open_janus_node
from trio_signal.relay.memory import open_memory_node

#: What makes a node of a URL, by how the URL begins. It raises ValueError, which says what is
#: wrong with the URL, without what is secret in it.
Driver = Callable[[str, Settings], Node]
_DRIVERS: dict[str, Driver] = {
    "memory": open_memory_node,
    "janus+ws": open_janus_node,
    "janus+wss": open_janus_node,
    "cloudflare": open_cloudflare_node,
}
#: Seconds for which all media servers may be gone before viewers are served directly instead.
PATIENCE = 10.0
#: Seconds for which it counts what another replica said.
_REMEMBERED = 30.0
#: Replicas of which that is kept: names in Redis may be made up.
_MOST = 256


def nodes_of(settings: Settings) -> tuple[Node, ...]:
    """A node for each of the URLs, to be run by the caller; none if no media server is set."""
    return tuple(
        _DRIVERS[url.partition(":")[0].lower()](url, settings) for url in settings.relay_urls
    )


def least_loaded(
    nodes: Sequence[Node], viewers: Mapping[str, int], avoid: Collection[str] = ()
) -> Node | None:
    """Of the nodes that can be used the one with the fewest viewers, the first of several.

    Those to `avoid` are taken only if there is no other; None if none can be used.
    """
    usable = [node for node in nodes if node.degraded is None]
    return min(
        usable, key=lambda node: (node.name in avoid, viewers.get(node.name, 0)), default=None
    )


class Nodes:
    """All media servers, and how many viewers each has on all replicas."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        """Take them; whoever made them runs them."""
        self.all = tuple(nodes)
        self._by_name = {node.name: node for node in nodes}
        #: By replica: when it said so, and how many viewers it has at each.
        self._others: dict[str, tuple[float, Mapping[str, int]]] = {}
        self._last_up = float("-inf")

    def named(self, name: str) -> Node | None:
        """The node of this name, which another replica chose."""
        return self._by_name.get(name)

    @property
    def degraded(self) -> str | None:
        """Why none of them can be used; None if one can."""
        reasons = {node.name: node.degraded for node in self.all}
        if None in reasons.values():
            return None
        return ", ".join(f"media server {name}: {reason}" for name, reason in reasons.items())

    def is_usable(self, now: float) -> bool:
        """Whether one of them works, or did so a moment ago."""
        if self.degraded is None:
            self._last_up = now
        return now < self._last_up + PATIENCE

    def take(self, loads: RelayLoads, now: float) -> None:
        """What another replica says."""
        if loads.replica in self._others or len(self._others) < _MOST:
            self._others[loads.replica] = now, loads.viewers

    def choose(self, own: Mapping[str, int], avoid: Collection[str], now: float) -> Node | None:
        """On which one a broadcast is to live; `own` are the viewers of this replica."""
        self._others = {
            name: told for name, told in self._others.items() if now < told[0] + _REMEMBERED
        }
        viewers = Counter(own)
        for _, counts in self._others.values():
            viewers.update(counts)
        return least_loaded(self.all, viewers, avoid)
