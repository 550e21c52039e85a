"""What `freshet top` and `freshet models list` show of a node of a cluster, and leave out elsewhere."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, disable_created_metrics, enable_created_metrics

from freshet import Model
from freshet.v1 import models_pb2
from freshet.v1.types_pb2 import ModelSpec
from service.cli.remote.manage import PLACE, model_rows
from service.cluster.hosting import scrape
from service.common.names import ModelKey
from service.console.exposition import Scrape
from service.observe.metrics import Metrics
from service.observe.rendering import Registry
from service.programs.top.lines import header, mapping, plain, words
from service.programs.top.screen import screen
from service.programs.top.view import History, Look, View

HERE, THERE = "10.0.0.1:8300", "10.0.0.2:8300"


@pytest.fixture(autouse=True)
def without_created():
    """As in a server, where each counter has one series."""
    disable_created_metrics()
    yield
    enable_created_metrics()


def model(name: str, shard: int, node: str, ticks: int = 0) -> Model:
    report = models_pb2.ModelReport(loss=0.25, ticks=ticks)
    return Model.of(
        models_pb2.Model(name=name, spec=ModelSpec(learn=True), shard=shard, node=node, epoch=6, report=report)
    )


class Node:
    """A node with shards 0, of model "near", and 1, which is empty; "far" is on another node."""

    def __init__(self) -> None:
        self.process = Registry()
        node = Metrics(self.process, cluster=True)
        assert node.cluster
        self.registries = {n: Registry() for n in range(2)}
        self.shards = {n: Metrics(registry, process=node) for n, registry in self.registries.items()}
        for number, metrics in self.shards.items():
            node.cluster.owns(number, 5)
            metrics.publishing.fresh.set(30)
            metrics.trainer.trainer_ready.set(number == 0)
        self.near = self.shards[0].of(ModelKey("default", "near"))
        self.near.serving.version.set(3)
        self.ticks = 0

    def look(self, at: float) -> Look:
        self.near.serving.ticks.inc(20)
        self.ticks += 50
        models = [model("near", 0, HERE), model("far", 2, THERE, self.ticks)]
        text = scrape.text(self.process, self.registries).decode()
        return Look(at, 1000.0 + at, Scrape.parse(text), models, "ready")


@pytest.fixture
def seen() -> View:
    node, history = Node(), History()
    history.add(node.look(0.0))
    return history.add(node.look(10.0))


def drawn(view: View, width: int) -> list[str]:
    return [line.plain for line in screen(view, {}, HERE, width, 40)]


def test_a_model_of_this_node_has_its_metrics_and_one_of_another_what_the_list_says(seen):
    far, near = seen.models
    assert (near.ticks_per_s, near.version) == (2.0, 3)
    assert (far.ticks_per_s, far.loss) == (5.0, 0.25)
    assert [(m.shard, m.node, m.epoch) for m in seen.models] == [(2, THERE, 6), (0, HERE, 6)]


def test_what_is_the_same_on_every_shard_is_not_added_up(seen):
    assert (seen.server.fresh_s, seen.server.shards) == (30, 2)
    assert seen.server.trainer is True, "an empty shard has no trainer, and needs none"


@pytest.mark.parametrize("width", [50, 80, 120, 240])
def test_shard_and_node_are_shown_beside_or_below_the_table(seen, width):
    lines = drawn(seen, width)
    assert max(map(len, lines)) <= width
    assert THERE in "\n".join(lines)
    assert "2 shards" in " ".join(lines[:4])
    assert ("node" in next(line for line in lines if line.startswith("model"))) == (width == 240)


def test_lines_for_programs_and_json_say_where_a_model_is(seen):
    assert header(words(seen)).endswith("waiting_s shard node epoch")
    assert [line.split()[-3:] for line in plain(seen, words(seen))[-2:]] == [["2", THERE, "6"], ["0", HERE, "6"]]
    assert plain(seen)[0].endswith("shards=2")
    assert mapping(seen)["models"][0]["node"] == THERE
    assert [row[-3:] for row in model_rows([model("far", 2, THERE)])] == [("002", THERE, 6)]


def test_without_a_cluster_nothing_says_shard():
    metrics = Metrics(CollectorRegistry())
    metrics.serving.of(ModelKey("default", "near")).version.set(1)
    alone = Model.of(models_pb2.Model(name="near", spec=ModelSpec(learn=True)))
    text = "freshet_trainer_ready 1\n"
    view = History().add(Look(1.0, 2.0, Scrape.parse(text), [alone], "ready"))
    told = [*drawn(view, 240), header(words(view)), *plain(view, words(view)), str(mapping(view))]
    assert not [line for line in told if "shard" in line or "epoch" in line]
    assert len(model_rows([alone])[0]) == 8
    assert PLACE == ("shard", "node", "epoch")
