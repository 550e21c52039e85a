"""`freshet nodes`: the nodes of a cluster and its shards, asked of any node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.cli.remote.models import Json, run
from service.console.remote import Remote
from service.console.verbs import LOCAL, asking

if TYPE_CHECKING:
    import freshet


@asking
def nodes(server: Remote = LOCAL, json: Json = False) -> None:
    """List the nodes of a cluster, and which of them owns each shard.

    Any node can be asked. A node is listed for as long as it renews its note in the store. Models are those that the
    token may see.
    """
    raise run(server, list_nodes, json)


async def list_nodes(client: freshet.Client, as_json: bool) -> int:
    """Print a line for each node, then one for each shard. Returns the exit code: 1 if a shard has no owner."""
    from service.cli.remote.manage import when
    from service.console.tables import plain, print_json, print_table

    found = await client.cluster()
    if as_json:
        print_json(plain(found))
    else:
        columns = ("node", "http", "started", "shards", "state")
        lines = [(n.address, n.http, when(n.started), len(n.shards), state(n)) for n in found.nodes]
        print_table(columns, lines)
        print()
        rows = [(f"{s.shard:03d}", s.node or "no owner", s.epoch or None, s.models) for s in found.shards]
        print_table(("shard", "node", "epoch", "models"), rows)
    return 0 if all(shard.node for shard in found.shards) else 1


def state(node: freshet.Node) -> str:
    """Return how a node is, in one or two words."""
    return "no answer" if not node.answers else "leaving" if node.leaving else "serves"
