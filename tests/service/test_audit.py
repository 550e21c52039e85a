"""The audit log: its lines, its bounds, and a file that may be rotated."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import structlog

from freshet.v1 import cluster_pb2, models_pb2, streams_pb2, training_pb2
from service.access.audit import Audit
from service.access.grants import Grant, Role, token_digest
from service.common.limits import AUDIT_REFUSALS
from service.common.names import ModelKey
from service.edge.guard.auditing import ACTS, NOT_ACTS, named
from service.edge.oip import inference_pb2
from service.observe import events as ev
from service.observe.events import Event, Events

WHO = Grant("acme", Role.ADMIN, token_digest("s3cret"), "ci")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_method_is_audited_or_listed_as_not_audited():
    services = [
        s
        for pb in (streams_pb2, models_pb2, training_pb2, cluster_pb2, inference_pb2)
        for s in pb.DESCRIPTOR.services_by_name.values()
    ]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}

    assert methods == ACTS.keys() | NOT_ACTS
    assert not ACTS.keys() & NOT_ACTS


def test_a_line_names_the_model_and_stream_of_the_request():
    put = streams_pb2.PutStreamRequest(stream=streams_pb2.Stream(model="flow", stream="pump"))
    assert named(ACTS["/freshet.v1.Streams/Put"], put) == {"model": "flow", "stream": "pump"}
    promote = models_pb2.PromoteRequest(name="flow", version=3)
    assert named(ACTS["/freshet.v1.Models/Promote"], promote) == {"model": "flow", "version": 3}


def test_a_line_has_caller_peer_act_and_outcome_and_no_secret(tmp_path):
    path = tmp_path / "audit"
    audit = Audit(path, wall=lambda: 0.0)
    audit.act("promote", "ok", WHO, "ipv4:10.0.0.1:5", model="flow", version=3)

    assert lines(path) == [{
        "timestamp": "1970-01-01T00:00:00Z", "level": "info", "logger": "audit", "event": "audit", "action": "promote",
        "outcome": "ok", "tenant": "acme", "token": "ci", "role": "admin", "peer": "ipv4:10.0.0.1:5", "model": "flow",
        "version": 3,
    }]  # fmt: skip
    assert WHO.digest not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_value_of_a_client_stays_one_line_of_bounded_length(tmp_path):
    audit = Audit(tmp_path / "audit")
    audit.act("create", "invalid", WHO, model="x\n{}\x1b[31m" + "y" * 10**6)

    [line] = lines(tmp_path / "audit")
    assert str(line["model"]).startswith("x\\n{}\\x1b[31myyy")
    assert len(str(line["model"])) < 300


def test_an_existing_file_is_appended_to_and_made_private(tmp_path):
    path = tmp_path / "audit"
    path.write_text('{"event": "before"}\n')
    path.chmod(0o644)
    Audit(path).act("pause", "ok", WHO)

    assert [line["event"] for line in lines(path)] == ["before", "audit"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rotated_file_is_reopened(tmp_path):
    path, old = tmp_path / "audit", tmp_path / "audit.1"
    audit = Audit(path)
    audit.act("pause", "ok", WHO)
    path.rename(old)
    audit.act("resume", "ok", WHO)
    audit.act("delete", "ok", WHO)

    assert [line["action"] for line in lines(old)] == ["pause"]
    assert [line["action"] for line in lines(path)] == ["resume", "delete"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_opened_is_refused_by_its_setting(tmp_path):
    with pytest.raises(OSError, match=r"audit = .*nowhere/audit: No such file or directory; give a file"):
        Audit(tmp_path / "nowhere" / "audit")


def test_on_a_full_disk_no_partial_line_remains_and_the_process_log_has_it(tmp_path, monkeypatch):
    path, full = tmp_path / "audit", []
    audit = Audit(path, on_full=lambda: full.append(1))
    audit.act("pause", "ok", WHO)
    write, room = os.write, [10]

    def short(fd: int, data: bytes) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        return write(fd, data[: room.pop()])

    with structlog.testing.capture_logs() as logged, monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        audit.act("resume", "ok", WHO)
    audit.act("delete", "ok", WHO)

    assert full == [1]
    assert [line["action"] for line in lines(path)] == ["pause", "delete"]
    assert [line["action"] for line in logged if line["event"] == "audit"] == ["resume"]
    assert [line["log_level"] for line in logged if line["event"] != "audit"] == ["error"]


def test_a_flood_of_refusals_is_counted_and_mutes_no_other_tenant(tmp_path):
    clock = Clock()
    audit = Audit(tmp_path / "audit", clock=clock)
    for at in range(1000):
        audit.refused("token refused", "unauthenticated", None, f"10.0.0.{at}")
    audit.refused("pause", "permission_denied", WHO)
    audit.count_left_out()
    audit.count_left_out()

    found = lines(tmp_path / "audit")
    assert len(found) == AUDIT_REFUSALS + 2
    assert [line["left_out"] for line in found if "left_out" in line] == [1000 - AUDIT_REFUSALS]
    assert [line["tenant"] for line in found if "tenant" in line] == ["acme"]


def test_after_a_flood_refusals_have_lines_again(tmp_path):
    clock = Clock()
    audit = Audit(tmp_path / "audit", clock=clock)
    for _ in range(AUDIT_REFUSALS + 5):
        audit.refused("token refused", "unauthenticated")
    clock.now = 3.0
    for _ in range(5):
        audit.refused("token refused", "unauthenticated")
    audit.close()

    found = lines(tmp_path / "audit")
    assert len(found) == AUDIT_REFUSALS + 3 + 1
    assert found[-1]["left_out"] == 5 + 2


@pytest.mark.parametrize(
    ("kind", "action"),
    [(ev.PUBLISHED, "publish"), (ev.VETOED, "veto"), (ev.ROLLED_BACK, "rollback"), (ev.SKIPPED, "skip")],
)
def test_an_act_of_the_server_itself_has_a_line(tmp_path, kind, action):
    audit, events = Audit(tmp_path / "audit"), Events()
    events.listeners.append(audit.event)
    events.emit(Event(ModelKey("acme", "flow"), kind, 7, 3, "why", 0.0))
    events.emit(Event(ModelKey("acme", "flow"), kind, 7, 3, "by hand", 0.0))
    events.emit(Event(ModelKey("acme", "flow"), ev.ANCHORED, 7, 3, "held", 0.0))

    [line] = lines(tmp_path / "audit")
    assert {"action": action, "by": "server", "tenant": "acme", "model": "flow", "version": 3}.items() <= line.items()
