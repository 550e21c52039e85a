"""Objects that a person meets in a debugger say in one line which they are and how they stand."""

import pytest

from tests.service.one_process import key, world


async def test_a_model_names_its_versions_and_streams(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        service.open(model, "pump")

        assert repr(model) == "ServedModel(default/flow, number 1, champion 1, anchor 1, 1 of 1 streams in memory)"

        await service.control.pause(key("flow"))
        assert repr(model).endswith("in memory, paused)")
        await service.control.delete(key("flow"))
        assert repr(model).endswith("in memory, deleted)")


async def test_a_stream_says_where_it_stands_also_when_it_has_left_memory(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        session = service.open(model, "pump")
        await service.ticks(model, [(session, 1.0), (session, 2.0)])

        stands = "epoch 1, last_seq 2, durable_seq 0, judged 0, state resumed"
        assert repr(session) == f"Session(default/flow/pump, {stands})"

        service.serving.opening.delete(model, "pump")
        assert repr(session) == "Session(default/flow/pump, not in memory)"


async def test_a_version_and_its_session_name_themselves(tmp_path):
    async with world(tmp_path, session_memory_bytes=1 << 20) as service:
        model = await service.model()
        version = service.server.versions.get(model.number, 1)
        session = service.serving.champions.session(model)

        head = "Version(1 of model 1, parent 0, learned 0 entries, loss none, onnx "
        assert repr(version) == f"{head}{version.digest[:12]})"
        size = f"{session.nbytes / 1024:.0f} KiB"
        assert repr(session) == f"StepSession(1 channels, state {model.network.state_size}, 1 outputs, {size})"
        loaded = f"{session.nbytes / (1 << 20):.1f} of 1 MiB"
        assert repr(service.server.engine) == f"Engine(1 sessions of 1 models, {loaded})"


@pytest.mark.parametrize("name", ["model", "session", "version"])
async def test_each_is_one_short_line(tmp_path, name):
    async with world(tmp_path) as service:
        model = await service.model("m" * 60)
        shown = {
            "model": model,
            "session": service.open(model, "s" * 60),
            "version": service.server.versions.get(model.number, 1),
        }

        assert len(repr(shown[name])) < 240
        assert repr(shown[name]).isprintable()
