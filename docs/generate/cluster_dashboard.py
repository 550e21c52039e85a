"""deploy/grafana/cluster.json: the dashboard of a cluster, beside that of its servers. `_cluster` holds its panels."""

from docs.generate._cluster import ROWS
from docs.generate.dashboard import chosen, document

PAGE = "deploy/grafana/cluster.json"


def render() -> str:
    """Return the dashboard as JSON that Grafana imports or provisions."""
    box = chosen("job", "label_values(freshet_cluster_shards, job)")
    return document("freshet-cluster", "freshet, cluster", box, rows=ROWS)
