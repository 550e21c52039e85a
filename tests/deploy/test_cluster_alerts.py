"""Each alert of a cluster fires where it should and nowhere else, as promtool's own rule evaluation says."""

from __future__ import annotations

import re

import pytest

from tests.deploy.test_alerts import NAMES as NAMES_OF_A_SERVER
from tests.deploy.test_alerts import PROMETHEUS, Scenario, evaluated, lately, needs_promtool, promtool

ALERTS = (PROMETHEUS / "cluster.yml").read_text()
NAMES = re.findall(r"^ *- alert: (\w+)$", ALERTS, re.MULTILINE)
NODES = [f'job="freshet", instance="{name}"' for name in "abc"]
NODE = NODES[0]


def each(metric: str, *values: str) -> dict[str, str]:
    """A metric of the three nodes; one value is that of all."""
    return {f"{metric}{{{node}}}": values[i % len(values)] for i, node in enumerate(NODES)}


def calls(operation: str, slow: float) -> dict[str, str]:
    """Calls to the store of one node, each minute: 100 take up to 50 ms, `slow` up to 2.5 s."""
    of = f'{NODE}, operation="{operation}"'
    at = [("0.05", 100), ("2.5", 100 + slow), ("+Inf", 100 + slow)]
    buckets = {f'freshet_store_seconds_bucket{{{of}, le="{le}"}}': f"0+{n}x60" for le, n in at}
    return buckets | {f"freshet_store_seconds_count{{{of}}}": f"0+{100 + slow}x60"}


WELL = {
    **each("freshet_cluster_shards", "16x60"),
    **each("freshet_shards_owned", "6x60", "5x60", "5x60"),
    **each("freshet_nodes", "3x60"),
    **{name: values for count in ("claims", "duels", "lost", "failed", "handovers")
       for name, values in each(f"freshet_shard_{count}_total", "6x60").items()},
    **calls("append", 0), **calls("put", 0), **calls("get", 0),
    f'freshet_store_errors_total{{{NODE}, operation="append"}}': "0x60",
}  # fmt: skip
SCENARIOS = [
    Scenario("a cluster is well", {}),
    Scenario("a shard has no owner", each("freshet_shards_owned", "6x60", "5x60", "4x60"), "FreshetShardUnowned"),
    Scenario(
        "a node hands its shards over",
        each("freshet_shards_owned", lately(0, 6, 3), lately(0, 5, 8), "5x60"),
    ),
    Scenario(
        "a node is scraped no more, and the others have not taken its shards",
        each("freshet_shards_owned", "6x60", "5x60", "5x30 stale _x29"),
        "FreshetShardUnowned",
    ),
    Scenario("a node is lost", each("freshet_nodes", lately(8, 3, 2)), "FreshetNodeLost"),
    Scenario("a node restarts", each("freshet_nodes", lately(3, 3, 2))),
    Scenario("a node has come", each("freshet_nodes", lately(8, 2, 3))),
    Scenario("shards go round", each("freshet_shard_claims_total", "0+4x60"), "FreshetShardsRestless"),
    Scenario("every shard moves once", each("freshet_shard_claims_total", lately(8, 6, 16))),
    Scenario("a shard cannot be opened", each("freshet_shard_failed_total", "0+1x60"), "FreshetShardsRestless"),
    Scenario("a shard could not be opened once", each("freshet_shard_failed_total", lately(9, 0, 1), "0x60", "0x60")),
    Scenario("two nodes fight", each("freshet_shard_duels_total", "0+1x60"), "FreshetShardDuels"),
    Scenario("a node loses what it has", each("freshet_shard_lost_total", "0+1x60"), "FreshetShardDuels"),
    Scenario("a node died, and two wanted its shards", each("freshet_shard_duels_total", lately(9, 0, 3))),
    Scenario("two nodes believe they own one", each("freshet_shards_owned", "6x60"), "FreshetShardDuels"),
    Scenario("the store is slow", calls("append", 2), "FreshetStoreSlow"),
    Scenario("the store is slow at times", calls("append", 0.5)),
    Scenario("reading a whole shard takes long", calls("get", 20)),
    Scenario(
        "the store fails", {f'freshet_store_errors_total{{{NODE}, operation="append"}}': "0+20x60"},
        "FreshetStoreErrors",
    ),
    Scenario("the store fails now and then", {f'freshet_store_errors_total{{{NODE}, operation="append"}}': "0+10x60"}),
]  # fmt: skip


@needs_promtool
def test_each_alert_of_a_cluster_fires_where_it_should_and_no_other_does(tmp_path):
    done = evaluated(tmp_path, ALERTS, SCENARIOS, WELL)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("expression", ["vector(0) > 1", "vector(1)"], ids=["never", "always"])
def test_an_alert_of_a_cluster_that_never_fires_or_always_does_is_found(tmp_path, name, expression):
    head, _, tail = ALERTS.partition(f"- alert: {name}\n")
    mutant = re.sub(r"expr: .*?(?=\n +for:)", f"expr: {expression}", tail, count=1, flags=re.DOTALL)
    assert mutant != tail

    concerned = [one for one in SCENARIOS if one.fires == name]
    done = evaluated(tmp_path, f"{head}- alert: {name}\n{mutant}", [SCENARIOS[0], concerned[0]], WELL)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "exp:" in done.stdout + done.stderr, "it failed for another reason"


@needs_promtool
def test_prometheus_accepts_the_rules_of_a_cluster():
    done = promtool("check", "rules", PROMETHEUS / "cluster.yml")

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_of_a_cluster_has_scenarios_and_names_its_place_in_the_runbook():
    assert {one.fires for one in SCENARIOS} == {"", *NAMES}
    assert re.findall(r"runbook: docs/cluster\.md#(\w+)", ALERTS) == [name.lower() for name in NAMES]
    assert not set(NAMES) & set(NAMES_OF_A_SERVER)
