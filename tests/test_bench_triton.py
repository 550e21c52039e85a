"""The benchmark beside Triton: what it does without Triton, which most machines do not have."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from bench._triton import Absent, descendants, installed, lacking, process_cpu_s, repository
from bench._triton_model import GRAPH, States
from model.graph.step import export_step
from model.network import Network
from model.spec import ModelSpec
from service.engine.session import StepSession
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def network():
    return Network(ModelSpec(channels=("a",), cell="lstm", hidden=4, forecaster="network", head_init=0.3))


@pytest.fixture(scope="module")
def onnx(network):
    return export_step(network, network.weights(network.init_params()))


def test_the_model_beside_keeps_the_state_of_each_sequence_and_answers_as_ours(network, onnx):
    rng, states, session = np.random.default_rng(0), States(onnx, sequences=3), StepSession(onnx)
    alone: dict[int, np.ndarray] = {}
    turns = [(7, 8), (8,), (9, 7, 8), (7, 9)]
    for turn, sequences in enumerate(turns):
        starts = [sequence not in alone for sequence in sequences]
        x = rng.standard_normal((len(sequences), 1), np.float32) + turn
        answers = states.step(sequences, starts, x)
        for i, sequence in enumerate(sequences):
            before = alone.get(sequence, np.zeros((1, session._single["state"].shape[1]), np.float32))
            y, after = session.compute(x[i : i + 1], np.zeros((1, 0), np.float32), before)
            alone[sequence] = after
            np.testing.assert_array_equal(answers[i : i + 1], y)


def test_a_sequence_of_the_model_beside_that_starts_again_begins_afresh_and_one_that_ended_leaves_its_row(onnx):
    states, x = States(onnx, sequences=1), np.array([[2.0]], np.float32)
    first = states.step([7], [True], x)
    states.step([7], [False], x + 5)
    np.testing.assert_array_equal(states.step([7], [True], x), first)
    states.end(7)
    np.testing.assert_array_equal(states.step([8], [True], x), first)
    with pytest.raises(KeyError):
        states.step([7], [False], x)


def test_a_repository_has_the_graph_its_model_and_a_slot_for_each_sequence(tmp_path):
    repository(tmp_path, "m", b"graph", sequences=16)
    config = (tmp_path / "m" / "config.pbtxt").read_text()
    assert "max_batch_size: 16" in config
    assert config.count("{") == config.count("}")
    assert (tmp_path / "m" / "1" / GRAPH).read_bytes() == b"graph"
    compile((tmp_path / "m" / "1" / "model.py").read_text(), "model.py", "exec")


def test_libraries_that_the_loader_does_not_find_are_named():
    found = "\tlibb64.so.0d => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x1)\n"
    old = "tritonserver: /lib/libc.so.6: version `GLIBC_2.38' not found (required by tritonserver)\n"
    assert lacking(found + old) == {"libb64.so.0d", "GLIBC_2.38"}


def test_a_folder_without_triton_is_refused_and_nothing_is_measured(tmp_path):
    with pytest.raises(Absent, match=r"x86-64|no bin/tritonserver"):
        installed(tmp_path)
    command = [sys.executable, "-m", "bench.triton", "--server", tmp_path]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing is measured: ")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_time_of_a_process_includes_threads_that_have_ended_and_its_children_are_found():
    work = "import threading, time\nt = threading.Thread(target=lambda: sum(range(3_000_000)))\nt.start()\nt.join()\n"
    work += "print(time.process_time(), flush=True)\ninput()\n"
    with subprocess.Popen([sys.executable, "-c", work], stdin=-1, stdout=-1, text=True) as child:
        assert child.stdout
        assert process_cpu_s(child.pid) <= time.monotonic()
        told = float(child.stdout.readline())
        assert process_cpu_s(child.pid) >= told > 0
        assert child.pid in descendants(os.getpid())
        child.communicate("\n")
