"""docs/hardening.md is the one table of limits: its settings, defaults and tests are those of the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from model import spec
from service.common import documents, limits
from service.edge import http
from service.learning import deaths, queues, replaying
from service.observe import events
from service.server.config import ServeConfig
from service.streams import answers, sequence
from service.trainer import quarantine
from service.viewing import ghost, seen

ROOT = Path(__file__).parents[2]
MODULES = (limits, documents, sequence, answers, spec, events, replaying, quarantine, queues, deaths, seen, ghost, http)
CONSTANTS = {name: value for module in MODULES for name, value in vars(module).items()}
# Settings that bound nothing a client can ask for.
NO_LIMITS = {
    "listen", "http", "data", "log_format", "audit", "insecure",
    "oip_metrics", "publish_labels", "publish_s", "checkpoint_chunks",
    "trainer_nice",
    "trainers", "fresh_s",
    "comfortable_backlog", "worse_evidence", "anchor_labels", "anchor_scores", "score_every", "cool_down_labels",
    "store", "advertise", "shards", "heartbeat_s", "image_s", "slices", "slices_s", "tls_peer_ca",
    "max_movement", "snapshot_s", "commit_s", "segment_bytes", "access", "tls_cert", "tls_key", "tls_client_ca",
}  # fmt: skip


def rows() -> list[list[str]]:
    """The cells of each row: limit, setting, default, beyond it, held by."""
    lines = (ROOT / "docs" / "hardening.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in table if row[0] != "limit"]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_names_a_setting_its_default_and_a_test_that_is_there(row):
    _, setting, default, beyond, held_by = row
    name, value = setting.strip("`"), default.replace(",", "")

    actual = ServeConfig.model_fields[name].default if name in ServeConfig.model_fields else CONSTANTS[name]
    assert float(value) == actual
    assert beyond
    for path, test in re.findall(r"`(\S+)::(\S+)`", held_by) or pytest.fail("no test is named"):
        assert re.search(rf"^ *(async )?def {test}\(", (ROOT / "tests" / path).read_text(), re.M), (
            f"{path} has no {test}"
        )


def test_every_setting_and_every_constant_that_bounds_something_is_in_the_table():
    named = {row[1].strip("`") for row in rows()}

    assert set(ServeConfig.model_fields) - NO_LIMITS <= named
    assert {name for name in vars(limits) if name.startswith("MAX_")} <= named
