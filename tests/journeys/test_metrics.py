"""Every metric moves when its event happens, and clients cannot add series by choosing names."""

from __future__ import annotations

import asyncio
import os
import signal

import grpc
import numpy as np
import pytest

import freshet
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import training_pb2, training_pb2_grpc
from service.programs.backtest.child import ServerChild
from tests.conftest import ROOT
from tests.journeys.processes import trainer_of
from tests.journeys.raw import DEADLINE_S, RawLearn, RawStream
from tests.journeys.scraped import Scraped, get, scrape, scraped_until

# Any backlog is uncomfortable, so labels are thinned; the anchor is scored on every chunk, and soon replaced; a stream
# that is not open soon leaves memory; a slow disk makes few chunks, of which there is a checkpoint all the same.
SETTINGS = {
    "comfortable_backlog": 1, "score_every": 1, "anchor_labels": 32, "anchor_scores": 1, "snapshot_s": 0.2,
    "idle_s": 0.2, "checkpoint_chunks": 2,
}  # fmt: skip

MODEL = "moving"
STREAM = "needle-7f3a"

MOVES = [
    # serving
    "freshet_message_queue_seconds_count", "freshet_step_seconds_count", "freshet_message_seconds_count",
    "freshet_batch_rows_count", "freshet_ticks_total", "freshet_ticks_repeated_total", "freshet_ticks_refused_total",
    "freshet_staleness_labels_count", "freshet_streams", "freshet_streams_open", "freshet_streams_resident",
    "freshet_streams_evicted_total", "freshet_streams_opened_total", "freshet_event_loop_lag_seconds_count",
    # journal and snapshots
    "freshet_journal_commit_seconds_count", "freshet_journal_durable_lag_seconds_count",
    "freshet_journal_position_bytes", "freshet_journal_bytes", "freshet_snapshot_seconds_count",
    "freshet_snapshot_position_bytes", "freshet_checkpoint_position_bytes",
    # learning
    "freshet_error_squared", "freshet_error_absolute", "freshet_error_squared_persistence",
    "freshet_error_absolute_persistence",
    "freshet_learning_seconds_total",
    "freshet_learner_updates_total", "freshet_labels_learned_total", "freshet_labels_thinned_total",
    "freshet_labels_voided_total", "freshet_learner_clipped_total", "freshet_loss_prequential",
    "freshet_loss_persistence", "freshet_losses_total", "freshet_interval_covered_total",
    "freshet_interval_asked_total",
    "freshet_score_candidate", "freshet_score_anchor", "freshet_gradient_norm_count", "freshet_gradient_lag_norm",
    "freshet_update_ratio_count", "freshet_trainer_restarts_total",
    # labels and windows from outside
    "freshet_labels_total", "freshet_windows_total", "freshet_windows_repeated_total", "freshet_labels_refused_total",
    "freshet_windows_learned_total", "freshet_labels_unlearned_total", "freshet_labels_duplicate_total",
    "freshet_labels_quarantined_total", "freshet_quarantine_items", "freshet_quarantine_replayed_total",
    # versions
    "freshet_version", "freshet_version_anchor", "freshet_published_timestamp_seconds", "freshet_verdicts_total",
    "freshet_rollbacks_total", "freshet_export_seconds_count", "freshet_parity_error",
    "freshet_label_to_serving_seconds_count",
    # calls
    "grpc_server_started_total", "grpc_server_handled_total", "grpc_server_handling_seconds_count",
    "grpc_server_msg_received_total", "grpc_server_msg_sent_total",
]  # fmt: skip

TRAINER_FACTS = (
    "cpu_seconds", "max_fds", "open_fds", "resident_memory_bytes", "start_time_seconds", "virtual_memory_bytes",
)  # fmt: skip

# Elsewhere: what this journey does not bring about, and where it is seen to move.
NOT_HERE = {
    "freshet_large_step_wait_seconds": "of steps too large for the loop; tests/journeys/test_heavy.py",
    "freshet_certificate_expiry_timestamp_seconds": "with TLS; tests/journeys/test_prometheus.py",
    "freshet_strangers_closed_total": "a connection that sends much before any call; tests/journeys/test_strangers.py",
    "freshet_states_rebuilt_total": "a start without states.db; tests/journeys/test_starts.py",
    "freshet_file_invalid": "a file that becomes invalid; tests/journeys/test_access.py",
    "freshet_calls_revoked_total": "a token that is good no longer; tests/journeys/test_access.py",
    "freshet_calls_denied_total": "a call without a good token; tests/journeys/test_access.py",
    "freshet_quota_reached_total": "a tenant at its quota; tests/journeys/test_quotas.py",
    "freshet_build_info": "what runs stays the same; tests/service/test_metrics.py",
    "freshet_ready": "1 as long as anybody is served; tests/service/test_metrics.py",
    "freshet_sessions_loaded": "as many as there are models that tick; tests/service/test_loading.py",
    "freshet_session_load_seconds_count": "a tick of a model that is not loaded; tests/service/test_loading.py",
    "freshet_disk_free_bytes": "the disk is others' too; tests/service/test_metrics.py",
    "freshet_trainer_ready": "1 but for a moment; tests/service/test_metrics.py",
    "freshet_learning_paused": "paused and resumed by hand; tests/service/test_metrics.py",
    "freshet_learn_every": "above 1 but for moments; tests/service/test_metrics.py",
    "freshet_gate_evidence": "1 while no candidate is worse; tests/service/test_metrics.py",
    "freshet_journal_undurable_entries": "what waits at the moment of the scrape, mostly nothing",
    "freshet_trainer_backlog_seconds": "what waits at the moment of the scrape, mostly nothing",
    "freshet_unjudged_seconds": "what waits at the moment of the scrape; tests/journeys/test_fair.py",
    "freshet_fresh_target_seconds": "a setting; tests/journeys/test_fair.py",
    "freshet_trainer_backlog_entries": "what waits at the moment of the scrape, mostly nothing",
    "freshet_gates_saturated_ratio": "no gate need be saturated; tests/service/test_metrics.py",
    "freshet_journal_segments_dropped_total": "a journal over its size; tests/journeys/test_journal_retention.py",
    "freshet_journal_truncated_bytes_total": "a torn tail; tests/service/test_recovery.py",
    "freshet_journal_no_space": "a full disk; tests/journeys/test_disk.py",
    "freshet_disk_full_total": "a full disk; tests/journeys/test_disk.py",
    "freshet_calls_cut_total": "a client that does not read; tests/journeys/test_limits.py",
    "freshet_corrupt_total": "damaged files; tests/service/test_damaged_files.py",
    "freshet_entries_skipped_total": "a trainer that dies of a record; tests/journeys/test_poison_record.py",
    "freshet_contexts_evicted_total": "20,000 streams; tests/service/test_metrics.py",
    "freshet_quarantine_dropped_total": "10,000 items; tests/service/test_outside.py",
    "freshet_expert_weight": "of a mixture; tests/service/test_metrics.py",
    "freshet_drift_total": "a loss that rises for good; tests/service/test_drift.py",
    "freshet_learner_refused_total": "a non-finite gradient cannot be sent; tests/service/test_metrics.py",
    **{f"freshet_trainer_process_{fact}": "of the process that runs then; below" for fact in TRAINER_FACTS},
}


def endings(seen: Scraped) -> dict[str, float]:
    """Return the number of ended calls of Open, by code."""

    def count(code: str) -> float:
        return seen.total("grpc_server_handled_total", grpc_method="Open", grpc_code=code)

    # The end of messages may reach the handler before the cancellation.
    well = count("OK") + count("CANCELLED")
    return {"well or cancelled": well, "INVALID_ARGUMENT": count("INVALID_ARGUMENT"), "UNKNOWN": count("UNKNOWN")}


async def test_every_metric_moves(server: ServerChild, client: freshet.Client, channel: grpc.aio.Channel):
    await client.create_model(MODEL, ["x"], hidden=8, clip=1e-3, intervals=[0.9])
    before = await scrape(server.http)

    await drive(client, channel)
    await label(client, channel)
    during = await scraped_until(server.http, lambda seen: seen.total("freshet_labels_thinned_total", model=MODEL) > 0)
    os.kill(trainer_of(server.pid), signal.SIGKILL)
    await scraped_until(server.http, lambda seen: seen.total("freshet_trainer_restarts_total") > 0)
    await learns_on(server, client)
    learned = await scrape(server.http)  # the head of the version to return to is zero, and so may be later gradients
    await client.rollback(MODEL)

    async with RawStream(channel, MODEL, "another"):
        await scraped_until(server.http, lambda seen: sum(endings(seen).values()) == 5)
        after = await scraped_until(server.http, lambda seen: seen.total("freshet_streams_evicted_total") > 0)
    still = [name for name in MOVES if learned.total(name) == before.total(name) == after.total(name)]
    assert not still
    known = {name.removesuffix("_total") for name in after.families}
    told = {n.removesuffix("_count").removesuffix("_total") for n in (*MOVES, *NOT_HERE)}
    assert {name for name in known if name.startswith("freshet_")} <= told  # add a new metric to this journey
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert not [name for name in after.families if f"| `{name}`" not in page and f"| `{name}_total`" not in page]
    assert after.total("freshet_ticks_refused_total", reason="gap") == 1
    assert after.total("freshet_ticks_refused_total", reason="conflict") == 1
    assert after.total("freshet_ticks_repeated_total", model=MODEL) == 1
    assert after.total("freshet_verdicts_total", kind="publish") > 0
    assert after.total("grpc_server_handled_total", grpc_method="Get", grpc_code="NOT_FOUND") == 1
    assert all(after.families[f"freshet_trainer_process_{fact}"].samples[0].value > 0 for fact in TRAINER_FACTS)
    assert endings(after) == {"well or cancelled": 4, "INVALID_ARGUMENT": 1, "UNKNOWN": 0}
    assert {"all", "cell0", "head"} <= after.label_values("layer")
    lags = {s.labels["lag"] for s in after.families["freshet_gradient_lag_norm"].samples if s.labels["model"] == MODEL}
    assert lags == {str(lag) for lag in range(16)}  # the window of 16, back from the newest label
    edges = {s.labels["le"] for s in after.families["freshet_gradient_norm"].samples if "le" in s.labels}
    assert {float(edge) for edge in edges} == {*(10.0**e for e in range(-6, 4)), float("inf")}
    assert during.total("freshet_learner_updates_total") <= after.total("freshet_learner_updates_total")


async def drive(client: freshet.Client, channel: grpc.aio.Channel) -> None:
    """Run a learning stream with a reset, a refused tick, a repeated one, and a call that fails."""
    rows = np.sin(np.arange(400) / 3)
    async with client.stream(MODEL, STREAM) as stream:
        async for _ in stream.forecasts(rows[:200]):
            pass
        await stream.reset()
        async for _ in stream.forecasts(rows[200:]):
            pass
        await asyncio.wait_for(stream.wait_judged(400), DEADLINE_S)
    async with RawStream(channel, MODEL, STREAM) as raw:
        assert (await raw.tick(500, [0.0])).HasField("refused")
        assert (await raw.tick(400, [9.0])).HasField("refused")
        assert (await raw.tick(400, [rows[399]])).HasField("forecast")
    nobody = RawStream(channel)
    await nobody.say()
    await nobody.error()
    with pytest.raises(freshet.NotFound):
        await client.get_model(f"{STREAM}-is-no-model")


async def label(client: freshet.Client, channel: grpc.aio.Channel) -> None:
    """Send labels: learned, repeated, in conflict, refused, and while paused; a window twice; replay one item."""
    await client.create_model("labelled", ["x"], task="regress", targets=["q"], hidden=4)

    def of(seq: int, y: float) -> training_pb2.StreamLabel:
        return training_pb2.StreamLabel(stream=STREAM, seq=seq, y=[y])

    async with RawStream(channel, "labelled", STREAM) as stream:
        for seq in range(1, 31):
            await stream.tick(seq, [float(seq)])
        async with RawLearn(channel, "labelled", "a source", training_pb2.LearnHello.LEARNED) as call:
            for y in (1.0, 1.0, 2.0, 3.0):
                await call.say(label=of(20, y))
            await call.refusal(label=of(31, 1.0))
            rows = np.ones(9, "<f4").tobytes()
            for _ in range(2):
                await call.say(window=training_pb2.Window(window_seq=1, steps=9, x=rows, y=rows))
            await call.until(labels=4, windows=2)
            training = training_pb2_grpc.TrainingStub(channel)
            await training.Replay(training_pb2.ReplayRequest(model="labelled", ids=[1]), timeout=DEADLINE_S)
            await client.pause("labelled")
            await call.say(label=of(21, 1.0))
            await call.until(labels=5)


async def learns_on(server: ServerChild, client: freshet.Client) -> None:
    """Stream until the restarted trainer learns and has reported a gradient by hidden states.

    The first report has none, because the first head is zero, and a busy trainer learns few labels of 100.
    """
    learned = (await scrape(server.http)).total("freshet_labels_learned_total", model=MODEL)

    def reported(seen: Scraped) -> bool:
        return seen.total("freshet_gradient_lag_norm", model=MODEL) > 0

    for _ in range(20):
        async with client.stream(MODEL, STREAM) as stream:
            first = stream.next_seq
            async for _ in stream.forecasts(np.cos(np.arange(100) / 3)):
                pass
            await asyncio.wait_for(stream.wait_judged(first + 99), DEADLINE_S)
        await scraped_until(server.http, lambda seen: seen.total("freshet_labels_learned_total", model=MODEL) > learned)
        if reported(await scrape(server.http)):
            return
    raise AssertionError("no report has a gradient by hidden states")


async def test_messages_are_counted_by_method_in_every_kind_of_handler(server, client, channel, name):
    async def counted(method: str, code: str, calls: int) -> tuple[float, float]:
        """Messages received and sent by a method, once so many calls of it have ended with the code."""

        def ended(seen: Scraped) -> bool:
            return seen.total("grpc_server_handled_total", grpc_method=method, grpc_code=code) >= calls

        seen = await scraped_until(server.http, ended)
        received = seen.total("grpc_server_msg_received_total", grpc_method=method)
        return received, seen.total("grpc_server_msg_sent_total", grpc_method=method)

    def calls(seen: Scraped, method: str, code: str) -> int:
        return int(seen.total("grpc_server_handled_total", grpc_method=method, grpc_code=code))

    await client.create_model(name, ["x"], learn=False, hidden=4)
    before = await scrape(server.http)
    opened, versions = await counted("Open", "OK", 0), await counted("Versions", "OK", 0)

    async with RawStream(channel, name, "pump") as stream:
        for seq in range(1, 6):
            await stream.tick(seq, [float(seq)])
        await stream.finish()
    await client.versions(name)
    with pytest.raises(freshet.NotFound):
        await client.versions(f"{name}-not")

    after = await counted("Open", "OK", calls(before, "Open", "OK") + 1)
    assert after[0] - opened[0] == 1 + 5, "Hello and five ticks"
    assert after[1] - opened[1] == stream.heard >= 1 + 5, "Welcome, forecasts, and Durable as often as it was told"
    after = await counted("Versions", "NOT_FOUND", calls(before, "Versions", "NOT_FOUND") + 1)
    assert (after[0] - versions[0], after[1] - versions[1]) == (2, 1), "an error is no message"


async def test_no_label_holds_a_value_that_a_client_chose(server, client, channel):
    await client.create_model("labels", ["x"], learn=False, hidden=4)
    for number in range(20):
        async with RawStream(channel, "labels", f"made-up-{number}") as stream:
            await stream.tick(1, [float("nan")])
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary("/freshet.v1.Models/MadeUp")(b"", timeout=DEADLINE_S)
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary("/made.up.Service/Get")(b"", timeout=DEADLINE_S)
    unknown = RawStream(channel)
    await unknown.say(hello=pb.Hello(model="made-up", stream="made-up"))
    await unknown.error()

    values = (await scrape(server.http)).label_values()

    assert not [v for v in values if "made" in v.lower() or STREAM in v]


async def test_the_side_server_answers_without_redirecting(server):
    status, metrics = await asyncio.to_thread(get, f"http://{server.http}/metrics")
    assert status == 200
    assert "# TYPE freshet_ticks_total counter" in metrics
    assert await asyncio.to_thread(get, f"http://{server.http}/healthz") == (200, "alive\n")
    assert await asyncio.to_thread(get, f"http://{server.http}/readyz") == (200, "ready\n")
    assert (await asyncio.to_thread(get, f"http://{server.http}/"))[0] == 200
    assert (await asyncio.to_thread(get, f"http://{server.http}/nothing"))[0] == 404
