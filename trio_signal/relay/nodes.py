"""Nodes: the media servers of the settings, and the choice of one for a broadcast."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from trio_signal.config import Settings
from trio_signal.messages.relay import RelayLoads
from trio_signal.relay import Node
from trio_signal.relay.cloudflare import open_cloudflare_node
from trio_signal.relay.janus import open_janus_node
from trio_signal.relay.memory import open_memory_node

#: Makes a node from a URL, by its scheme. Raises ValueError, which says what is wrong with the URL,
#: without its secrets.
Driver = Callable[[str, Settings], Node]
_DRIVERS: dict[str, Driver] = {
    "memory": open_memory_node,
    "janus+ws": open_janus_node,
    "janus+wss": open_janus_node,
    "cloudflare": open_cloudflare_node,
}
#: Seconds for which all media servers may be gone before viewers are served directly.
PATIENCE = 10.0
#: Seconds for which another replica's report is used.
_REMEMBERED = 30.0
#: How many replicas' reports are kept: replica names in Redis may be made up.
_MOST = 256


def nodes_of(settings: Settings) -> tuple[Node, ...]:
    """Make a node for each URL in the settings; the caller runs them."""
    return tuple(
        _DRIVERS[url.partition(":")[0].lower()](url, settings) for url in settings.relay_urls
    )


def least_loaded(
    nodes: Sequence[Node], viewers: Mapping[str, int], avoid: Collection[str] = ()
) -> Node | None:
    """The usable node with the fewest viewers; the first of several.

    Nodes to `avoid` are chosen only if there is no other. None if none is usable.
    """
    usable = [node for node in nodes if node.degraded is None]
    return min(
        usable, key=lambda node: (node.name in avoid, viewers.get(node.name, 0)), default=None
    )


class Nodes:
    """All media servers, and how many viewers each serves on all replicas."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        """Use these nodes; their maker runs them."""
        self.all = tuple(nodes)
        self._by_name = {node.name: node for node in nodes}
        #: By replica: when it reported, and how many viewers it has at each node.
        self._others: dict[str, tuple[float, Mapping[str, int]]] = {}
        self._last_up = float("-inf")

    def named(self, name: str) -> Node | None:
        """The node of this name, which another replica may have chosen."""
        return self._by_name.get(name)

    @property
    def degraded(self) -> str | None:
        """Why no node can be used; None if one can."""
        reasons = {node.name: node.degraded for node in self.all}
        if None in reasons.values():
            return None
        return ", ".join(f"media server {name}: {reason}" for name, reason in reasons.items())

    def is_usable(self, now: float) -> bool:
        """Whether a node works now, or did a moment ago."""
        if self.degraded is None:
            self._last_up = now
        return now < self._last_up + PATIENCE

    def take(self, loads: RelayLoads, now: float) -> None:
        """Process another replica's report."""
        if loads.replica in self._others or len(self._others) < _MOST:
            self._others[loads.replica] = now, loads.viewers

    def choose(self, own: Mapping[str, int], avoid: Collection[str], now: float) -> Node | None:
        """Choose the node for a broadcast; `own` are the viewers of this replica by node."""
        self._others = {
            name: told for name, told in self._others.items() if now < told[0] + _REMEMBERED
        }
        viewers = Counter(own)
        for _, counts in self._others.values():
            viewers.update(counts)
        return least_loaded(self.all, viewers, avoid)
