"""docs/metrics.md: every metric of the server, what it means and where it is looked at."""

import re
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector

from docs.generate import ROOT
from docs.generate._panels import panels
from docs.generate._tables import code, table
from service.access.grants import Quota
from service.common.errors import Reason
from service.common.names import Origin
from service.edge.guard.interceptor import LABELS as LABELS_OF_CALLS
from service.edge.guard.interceptor import GrpcMetrics
from service.observe.metrics import QUARANTINED, Metrics
from service.trainer.process import SHOWN_LAGS

PAGE = "docs/metrics.md"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"

INTRODUCTION = """\
# Metrics

`GET /metrics` at the address of the setting `http`, in Prometheus's text format; the trainer's metrics are there too.
`deploy/prometheus` has a configuration and eight alerts, `deploy/grafana/freshet.json` is a dashboard.

Counters begin at 0 when the server starts. Of a histogram, `rate(…_sum) / rate(…_count)` is the mean in a window.

## Labels

Only models add series: no label holds what a client made up, and the series of a deleted model go with it.

"""
LABELS = {
    "tenant, model": "as many as there are models",
    "layer": "`all`, `cell0`, `cell1`, …, `head`",
    "lag": f"ticks back from the newest label, below the model's window, at most {SHOWN_LAGS}",
    "origin": ", ".join(code(origin.name.lower()) for origin in Origin),
    "reason": (
        f"of ticks and labels refused at the door: {', '.join(code(reason.name.lower()) for reason in Reason)}; "
        f"of the quarantine: {', '.join(map(code, QUARANTINED))}; of calls: `unauthenticated`, `forbidden`"
    ),
    "tenant, quota": f"tenants of the access file; {', '.join(code(field) for field in Quota.__dataclass_fields__)}",
    "file": "`access`, `certificate`",
    "kind": "`publish`, `veto`, `cooling_down`, `unchanged` (nothing new), `stale` (came too late), `no_space`",
    "what": "`journal`, `snapshot`, `version`, `checkpoint`, `stream`",
    "grpc_type, grpc_service, grpc_method, grpc_code": "of the methods that there are",
}
UNITS = {
    "_timestamp_seconds": "seconds since 1970", "_start_time_seconds": "seconds since 1970", "_seconds": "seconds",
    "_bytes": "bytes", "_ratio": "ratio", "_entries": "journal entries", "_rows": "ticks", "_labels": "labels",
    "_info": "1", "loss_prequential": "scaled loss", "loss_persistence": "scaled loss", "_norm": "loss per parameter",
}  # fmt: skip


def render() -> str:
    """The page."""
    labels, seen = label_names(), uses()
    families: dict[str, list[Metric]] = {"## freshet": [], "## Calls": [], "## Processes": []}
    for family in sorted(registry().collect(), key=lambda family: family.name):
        ours, calls = family.name.startswith("freshet_"), family.name.startswith("grpc_")
        families["## Calls" if calls else "## freshet" if ours else "## Processes"].append(family)
    page = INTRODUCTION + table(("label", "values"), ((code(name), values) for name, values in LABELS.items()))
    for title, members in families.items():
        rows = (row(family, labels.get(family.name, ()), seen) for family in members)
        page += f"\n{title}\n\n" + table(("metric", "type", "labels", "unit", "meaning", "looked at in"), rows)
    return page


def row(family: Metric, labels: Iterable[str], seen: Mapping[str, list[str]]) -> tuple[str, ...]:
    """One metric."""
    name = full_name(family)
    unit = next((unit for suffix, unit in UNITS.items() if family.name.endswith(suffix)), "")
    where = "; ".join(seen.get(name, ()))
    return code(name), family.type, ", ".join(map(code, labels)), unit, family.documentation, where


def full_name(family: Metric) -> str:
    """As queries name it: counters end in _total."""
    return family.name + "_total" * (family.type == "counter")


def registry() -> CollectorRegistry:
    """All that a server's /metrics has."""
    made = CollectorRegistry()
    Metrics(made)
    GrpcMetrics(made)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=made)
    ProcessCollector("freshet_trainer", registry=made)
    return made


def label_names() -> dict[str, tuple[str, ...]]:
    """Label names by family."""
    made = [*vars(Metrics(CollectorRegistry())).values(), *vars(GrpcMetrics(CollectorRegistry())).values()]
    labelled = {metric._name: tuple(metric._labelnames) for metric in made if hasattr(metric, "_labelnames")}
    return labelled | dict.fromkeys(("grpc_server_msg_received", "grpc_server_msg_sent"), LABELS_OF_CALLS)


def uses() -> dict[str, list[str]]:
    """Panels and alerts by the metric that they look at."""
    looks = [(f"panel {panel.title}", expr) for panel in panels() for expr, _ in panel.queries]
    for alert in re.split(r"- alert: ", ALERTS.read_text(encoding="utf-8"))[1:]:
        looks.append((f"alert {alert.split()[0]}", alert))
    names = {full_name(family) for family in registry().collect()}
    found: dict[str, list[str]] = {}
    for where, text in looks:
        for name in sorted(metrics_in(text) & names):
            if where not in found.setdefault(name, []):
                found[name].append(where)
    return found


def metrics_in(text: str) -> set[str]:
    """Names of metrics in queries; a histogram's series count as the histogram."""
    named = re.findall(r"\b(?:freshet|grpc_server|process|python)_\w+", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
