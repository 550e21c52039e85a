"""docs/metrics.md: every metric of the server, its meaning, and the panels and alerts that use it."""

import re
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector

from docs.generate import ROOT, _cluster
from docs.generate._panels import panels
from docs.generate._tables import code, table
from service.access.grants import Quota
from service.common.errors import Reason
from service.common.names import Origin
from service.edge.guard.interceptor import LABELS as LABELS_OF_CALLS
from service.edge.guard.interceptor import GrpcMetrics
from service.observe.cluster_metrics import OPERATIONS
from service.observe.metrics import Metrics
from service.trainer.quarantine import REASONS
from service.trainer.reports import SHOWN_LAGS

PAGE = "docs/metrics.md"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
ALERTS_OF_A_CLUSTER = ALERTS.with_name("cluster.yml")

INTRODUCTION = """\
# Metrics

`GET /metrics` at the address in the setting `http` returns all metrics in Prometheus's text format, the trainer's
included. `deploy/prometheus` has a configuration, nine alerts, and six for a cluster; `deploy/grafana` has a dashboard
of a server and one of a cluster.

Counters start at 0 when the server starts. The mean of a histogram in a window is `rate(…_sum) / rate(…_count)`.

## Labels

The number of series grows only with the number of models. No label holds a value that a client chooses. When a model is
deleted, its series are removed.

"""
LABELS = {
    "tenant, model": "one pair per model",
    "layer": "`all`, `cell0`, `cell1`, …, `head`",
    "level": "the levels of the model's `intervals`, at most 8",
    "expert": (
        "`network`, `squares_hidden`, `squares`, `squares_step`, `persistence`, and `naive_day`, `naive_week` or "
        "`naive_SECONDS` for each of the model's `seasons`"
    ),
    "lag": f"ticks before the newest label: from 0 to the model's window less 1, at most {SHOWN_LAGS} lags",
    "step": "steps ahead: 1, H/4, H/2, 3H/4 and H of a model's horizon H",
    "origin": ", ".join(code(origin.name.lower()) for origin in Origin),
    "reason": (
        f"for refused ticks and labels: {', '.join(code(reason.name.lower()) for reason in Reason)}; "
        f"for the quarantine: {', '.join(map(code, REASONS))}; for calls: `unauthenticated`, `forbidden`"
    ),
    "tenant, quota": f"tenants of the access file; {', '.join(code(field) for field in Quota.__dataclass_fields__)}",
    "forecaster": "`candidate`, `persistence`",
    "file": "`access`, `certificate`",
    "kind": "`publish`, `veto`, `cooling_down`, `unchanged` (nothing learned), `stale` (too late), `no_space`",
    "what": "`journal`, `snapshot`, `version`, `checkpoint`, `stream`",
    "shard": "`000` to the number of shards less 1; only with the setting `store`",
    "operation": ", ".join(map(code, OPERATIONS)),
    "grpc_type, grpc_service, grpc_method, grpc_code": "the methods of the server",
}
UNITS = {
    "_timestamp_seconds": "seconds since 1970", "_start_time_seconds": "seconds since 1970", "_seconds": "seconds",
    "_bytes": "bytes", "_ratio": "ratio", "_entries": "journal entries", "_rows": "ticks", "_labels": "labels",
    "_info": "1", "loss_prequential": "scaled loss", "loss_persistence": "scaled loss", "losses": "scaled loss",
    "_norm": "loss per parameter",
}  # fmt: skip


def render() -> str:
    """Return the page."""
    labels, seen = label_names(), uses()
    families: dict[str, list[Metric]] = {"## freshet": [], "## Calls": [], "## Processes": []}
    for family in sorted(registry().collect(), key=lambda family: family.name):
        ours, calls = family.name.startswith("freshet_"), family.name.startswith("grpc_")
        families["## Calls" if calls else "## freshet" if ours else "## Processes"].append(family)
    page = INTRODUCTION + table(("label", "values"), ((code(name), values) for name, values in LABELS.items()))
    for title, members in families.items():
        rows = (row(family, labels.get(family.name, ()), seen) for family in members)
        page += f"\n{title}\n\n" + table(("metric", "type", "labels", "unit", "meaning", "used in"), rows)
    return page


def row(family: Metric, labels: Iterable[str], seen: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Return the table row of one metric."""
    name = full_name(family)
    unit = next((unit for suffix, unit in UNITS.items() if family.name.endswith(suffix)), "")
    where = "; ".join(seen.get(name, ()))
    return code(name), family.type, ", ".join(map(code, labels)), unit, family.documentation, where


def full_name(family: Metric) -> str:
    """Return a metric's name as queries write it; counters end in `_total`."""
    return family.name + "_total" * (family.type == "counter")


def registry() -> CollectorRegistry:
    """Return a registry with all metrics of a server."""
    made = CollectorRegistry()
    Metrics(made, cluster=True)
    GrpcMetrics(made)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=made)
    ProcessCollector("freshet_trainer", registry=made)
    return made


def label_names() -> dict[str, tuple[str, ...]]:
    """Return the label names of each metric."""
    made = [vars(collector) for collector in registry()._collector_to_names]
    labelled = {metric["_name"]: tuple(metric["_labelnames"]) for metric in made if "_labelnames" in metric}
    return labelled | dict.fromkeys(("grpc_server_msg_received", "grpc_server_msg_sent"), LABELS_OF_CALLS)


def uses() -> dict[str, list[str]]:
    """Return the panels and alerts that use each metric."""
    looks = [(f"panel {panel.title}", expr) for panel in (*panels(), *_cluster.panels()) for expr, _ in panel.queries]
    rules = "".join(path.read_text(encoding="utf-8") for path in (ALERTS, ALERTS_OF_A_CLUSTER))
    alerts = re.split(r"- alert: ", rules)[1:]
    looks += [(f"alert {alert.split()[0]}", alert) for alert in alerts]
    names = {full_name(family) for family in registry().collect()}
    found: dict[str, list[str]] = {}
    for where, text in looks:
        for name in sorted(metrics_in(text) & names):
            if where not in found.setdefault(name, []):
                found[name].append(where)
    return found


def metrics_in(text: str) -> set[str]:
    """Return the metrics that queries name. The series of a histogram count as the histogram."""
    named = re.findall(r"\b(?:freshet|grpc_server|process|python)_\w+", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
