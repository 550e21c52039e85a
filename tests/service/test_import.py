"""`freshet import`: what it reads, checks, writes and refuses."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors import numpy as safetensors
from typer.testing import CliRunner

from model.fold.learner import Learner
from model.foreign.layers import ORDERS
from model.graph.step import export_step
from model.network import Network
from model.spec import ModelSpec
from service.cli.main import app
from service.console.files import load_weights
from service.engine.export import read_weights
from tests import foreign_samples as samples
from tests.model.foreign_graphs import stacked

REFUSED = {
    "keras_tf_gru1_last": "Loop: a loop cannot be read",
    "keras_tf_gru1_resetbefore_last": "Loop: a loop cannot be read",
    "keras_tf_rnn1_last": "Loop: a loop cannot be read",
    "keras_torch_gru1_last": "the exporter has unrolled the recurrence",
    "keras_torch_lstm1_last": "the exporter has unrolled the recurrence",
    "torch_dynamo_lstm1_bf_bi_last": "direction = 'bidirectional'",
    "torch_dynamodyn_lstm1_bf_bi_last": "direction = 'bidirectional'",
    "torch_legacy_lstm1_bf_bi_last": "direction = 'bidirectional'",
    "torch_dynamo_rnn1_bf_last": "the exporter has unrolled the recurrence",
    "torch_dynamo_rnn1_bf_last_relu": "the exporter has unrolled the recurrence",
    "torch_dynamo_rnn1_tf_last": "the exporter has unrolled the recurrence",
    "torch_dynamo_rnn2_bf_last": "the exporter has unrolled the recurrence",
    "torch_dynamo_rnn2_bf_state_seq": "the exporter has unrolled the recurrence",
    "torch_dynamodyn_rnn1_bf_last": "the exporter has unrolled the recurrence",
    "torch_dynamodyn_rnn2_bf_seq": "the exporter has unrolled the recurrence",
}
READ = [name for name in samples.NAMES if name not in REFUSED]
# With the weights themselves, everything but bidirectional models can be read; two samples come without weights.
WITH_WEIGHTS = [name for name in samples.NAMES if "_bi_" not in name and not name.startswith("keras_torch")]
FILES = {"model.toml", "weights.safetensors", "model.onnx"}


def run(*arguments: object):
    return CliRunner().invoke(app, ["import", *map(str, arguments)])


def loaded(folder: Path) -> tuple[Network, np.ndarray]:
    spec = ModelSpec.from_mapping(tomllib.loads((folder / "model.toml").read_text()))
    network = Network(spec)
    return network, read_weights(network, load_weights(folder, spec))


def test_at_least_31_of_the_46_samples_are_read():
    if not samples.NAMES:
        pytest.skip("the exported samples are not beside the project (../shared/onnx)")
    assert (len(samples.NAMES), len(READ)) == (46, 31)


@samples.each(READ)
def test_a_graph_is_imported_and_gives_its_stored_outputs(sample, tmp_path):
    result = run(samples.graph(sample), "--check", samples.FOLDER / f"{sample}.npz", "--out", tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES
    assert f"freshet models create NAME --from {tmp_path / 'model'}" in result.stdout.replace("\n", "")


@samples.each(sorted(REFUSED) if samples.NAMES else [])
def test_a_graph_of_another_kind_is_refused_by_its_name(sample, tmp_path):
    result = run(samples.graph(sample), "--out", tmp_path / "model")
    assert result.exit_code == 2
    assert REFUSED[sample] in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "model").exists()


@samples.each(READ[::5])
def test_the_written_graph_steps_through_the_stored_inputs_as_the_original_does(sample, tmp_path):
    assert run(samples.graph(sample), "--out", tmp_path / "model").exit_code == 0
    network, _ = loaded(tmp_path / "model")
    found = samples.arrays(sample)
    x = found["in/x"] if "_tf_last" in sample and sample.startswith("torch") else found["in/x"].transpose(1, 0, 2)
    starts = [found[f"in/{name}"] for name in ("h0", "c0") if f"in/{name}" in found]
    state = np.zeros((x.shape[1], network.state_size), np.float32)
    if starts:
        state[:] = np.concatenate([part[i] for i in range(len(starts[0])) for part in starts], axis=1)
    session = onnxruntime.InferenceSession((tmp_path / "model" / "model.onnx").read_bytes())
    ys, u = [], np.zeros((x.shape[1], 0), np.float32)
    for row in x:
        y, state = session.run(["y", "next_state"], {"x": row, "u": u, "state": state})
        ys.append(y)
    expected = found["out/y"]
    made = ys[-1] if expected.ndim == 2 else np.stack(ys, axis=1)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


@samples.each(READ[::6])
def test_an_imported_sample_learns_and_is_exported_again(sample, tmp_path):
    keys = ["--set", "learning_rate=1e-2", "--set", "label_horizon=8"]
    assert run(samples.graph(sample), *keys, "--out", tmp_path / "model").exit_code == 0
    network, flat = loaded(tmp_path / "model")
    learner = Learner(network.spec)
    learner.weights.flat[:] = flat
    x = np.random.default_rng(0).normal(0, 1, (320, len(network.spec.channels))).astype(np.float32)
    y = np.tile(np.tanh(x[:, :1] + np.roll(x[:, 1:2], 1)), (1, network.spec.outputs))
    losses = []
    for t in range(0, len(x), 8):
        streams, seq = np.full(8, 5, np.uint32), np.arange(t + 1, t + 9, dtype=np.uint64)
        learner.ticks(streams, seq, seq.astype(float), x[t : t + 8])
        losses += [update.loss for update in learner.labels(streams, seq, y[t : t + 8])[0]]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert np.abs(learner.weights.flat - flat)[: network.readout.start].max() > 1e-3
    session, u = onnxruntime.InferenceSession(export_step(network, learner.weights)), np.zeros((1, 0), np.float32)
    ours = theirs = np.zeros((1, network.state_size), np.float32)
    for row in x[:40]:
        expected, ours = network.step(learner.weights, row[None], u, ours)
        made, theirs = session.run(["y", "next_state"], {"x": row[None], "u": u, "state": theirs})
        np.testing.assert_allclose(made, expected, atol=1e-5)


def toml_of(sample: str, found: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """IMPORT.toml of a sample's weights, and the weights by their own names."""
    cell = next(cell for cell in ("lstm", "gru", "rnn") if cell in sample)
    if sample.startswith("torch"):
        weights = {name[3:]: array for name, array in found.items() if name.startswith("sd/")}
        layers = [f"rnn.*_l{n}" for n in range(2) if f"rnn.weight_ih_l{n}" in weights]
        time_first = "time_first = true\n" if "_tf_" in sample else ""
        relu = '[model]\nactivation = "relu"\n' if "relu" in sample else ""
        return f'cell = "{cell}"\nlayers = {layers}\nhead = "head.*"\n{time_first}{relu}', weights
    weights = {name.split("/", 2)[2]: array for name, array in found.items() if name.startswith("w/")}
    layers = [name.replace("recurrent_kernel", "*") for name in weights if name.endswith("/recurrent_kernel")]
    (head,) = (name.replace("kernel", "*") for name in weights if name.endswith("/y/kernel"))
    return f'format = "keras"\ncell = "{cell}"\nlayers = {layers}\nhead = "{head}"\n', weights


@samples.each(WITH_WEIGHTS)
def test_the_original_weights_and_a_few_lines_of_toml_give_the_stored_outputs(sample, tmp_path):
    toml, weights = toml_of(sample, samples.arrays(sample))
    safetensors.save_file(weights, tmp_path / "weights.safetensors")
    (tmp_path / "import.toml").write_text(toml)
    arguments = ["--config", tmp_path / "import.toml", "--check", samples.FOLDER / f"{sample}.npz"]
    result = run(tmp_path / "weights.safetensors", *arguments, "--out", tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert "differ by at most" in result.stdout


@samples.each(READ[:1])
def test_outputs_that_differ_end_with_one_sentence_and_no_files(sample, tmp_path):
    found = samples.arrays(sample)
    found["out/y"] += np.float32(2e-5)
    np.savez(tmp_path / "other.npz", **found)
    result = run(samples.graph(sample), "--check", tmp_path / "other.npz", "--out", tmp_path / "model")
    assert result.exit_code == 1
    assert "differs by 2.01e-05, more than 1e-05" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "model").exists()


# --- bad files, without the samples


def torch_file(folder: Path, **changes: np.ndarray) -> Path:
    """A state_dict of one LSTM and its IMPORT.toml."""
    rng = np.random.default_rng(0)
    shapes = {"rnn.weight_ih_l0": (16, 3), "rnn.weight_hh_l0": (16, 4), "head.weight": (2, 4), "head.bias": (2,)}
    shapes |= {"rnn.bias_ih_l0": (16,), "rnn.bias_hh_l0": (16,)}
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.save_file(weights | changes, folder / "net.safetensors")
    (folder / "import.toml").write_text('cell = "lstm"\nlayers = ["rnn.*_l0"]\nhead = "head.*"\n')
    return folder / "net.safetensors"


def imported(folder: Path, *arguments: object, file: Path | None = None):
    given = ["--config", folder / "import.toml", "--out", folder / "model", *arguments]
    return run(file or folder / "net.safetensors", *given)


def refused(folder: Path, result, *words: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert result.stderr.count("\n") == 1
    assert not (folder / "model").exists()


def test_a_state_dict_is_imported_from_its_own_folder_and_its_files_are_a_model(tmp_path, monkeypatch):
    torch_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = run("net.safetensors", "--config", "import.toml", "--set", 'targets=["a", "b"]')
    assert result.exit_code == 0, result.output
    assert "lstm, 1 layer of 4 units: 3 inputs, 2 outputs, task regress" in result.stdout
    network, flat = loaded(tmp_path / "net")
    assert network.spec.targets == ("a", "b")
    assert np.isfinite(flat).all()
    again = run("net.safetensors", "--config", "import.toml")
    assert again.exit_code == 2
    assert "out = net: exists: name another folder with --out" in again.stderr
    assert run("net.safetensors", "--config", "import.toml", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("net.pt", b"PK", "can run code: save the state_dict with safetensors.torch.save_file"),
        ("net.keras", b"PK", "save the weights with safetensors.numpy.save_file"),
        ("net.csv", b"a,b", "give a file whose name ends in .safetensors or .onnx"),
        ("net.onnx", b"hello", "not an ONNX file"),
        ("net.onnx", b"", "not an ONNX graph, or cut off"),
        ("net.safetensors", b"hello", "not a safetensors file"),
        ("net.safetensors", b"", "not a safetensors file"),
        ("net.safetensors", (2**40).to_bytes(8, "little") + b"{}", "not a safetensors file"),
        (
            "net.safetensors",
            (73).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000]}}  ',
            "not a safetensors file",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, name, content, words):
    torch_file(tmp_path)
    (tmp_path / name).write_bytes(content)
    refused(tmp_path, imported(tmp_path, file=tmp_path / name), words)


def test_a_file_that_is_cut_off_a_missing_one_and_a_folder_are_refused(tmp_path):
    file = torch_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-7])
    refused(tmp_path, imported(tmp_path), "not a safetensors file")
    refused(tmp_path, imported(tmp_path, file=tmp_path / "no.safetensors"), "no such file")
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path, imported(tmp_path, file=tmp_path / "folder.onnx"), "no such file")


def test_wrong_tensors_options_and_configurations_are_refused(tmp_path):
    torch_file(tmp_path, extra=np.zeros(3, np.float32))
    refused(tmp_path, imported(tmp_path), "tensor = extra: not part of the model")
    torch_file(tmp_path, **{"head.bias": np.full(2, np.nan, np.float32)})
    refused(tmp_path, imported(tmp_path), "tensor head.bias = NaN or infinite")
    torch_file(tmp_path)
    refused(tmp_path, imported(tmp_path, "--set", "hidden=5"), "model.hidden = 5: the weights have 4")
    refused(tmp_path, imported(tmp_path, "--set", "clip=-1"), "clip = -1")
    (tmp_path / "import.toml").write_text("cell = ")
    refused(tmp_path, imported(tmp_path), "not a TOML file")
    (tmp_path / "import.toml").write_text("model = 3")
    refused(tmp_path, imported(tmp_path), "model = 3: give a table of keys")


def npz_of(folder: Path, arrays: dict[str, Any]) -> Path:
    np.savez(folder / "check.npz", **arrays)
    return folder / "check.npz"


X, Y = np.zeros((2, 5, 3), np.float32), np.zeros((2, 2), np.float32)


@pytest.mark.parametrize(
    ("arrays", "words", "code"),
    [
        ({"in/x": X, "out/y": Y}, "output y differs by", 1),
        ({"in/x": X, "out/y": Y[:1]}, "output y has shape [1, 2], the imported model gives [2, 2]", 1),
        ({"in/x": X[:, :, :2], "out/y": Y}, "in/x = [2, 5, 2]: expected 3 values per step", 1),
        ({"in/x": X[0], "out/y": Y}, "in/x = rank 2: expected rank 3", 1),
        ({"in/x": X, "in/z": X, "out/y": Y}, "give one input x", 1),
        ({"in/x": X, "in/h0": X, "out/y": Y}, "in/h0 = [2, 5, 3]: expected [1, 2, 4]", 1),
        ({"in/x": X}, "it must hold arrays in/NAME and out/NAME", 2),
        ({"in/x": X.astype(np.float64), "out/y": Y}, "in/x: float64: give float32 in C order", 2),
        ({"in/x": np.array(["a", object()], object), "out/y": Y}, "in/x", 2),
        ({"in/x": X, **{f"out/{n}": Y for n in range(70)}}, "at most 64 arrays", 2),
    ],
)
def test_a_check_that_does_not_fit_is_one_sentence_and_no_files(tmp_path, arrays, words, code):
    torch_file(tmp_path)
    refused(tmp_path, imported(tmp_path, "--check", npz_of(tmp_path, arrays)), words, code=code)


def test_a_check_that_declares_more_than_it_holds_allocates_nothing(tmp_path):
    torch_file(tmp_path)
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    with zipfile.ZipFile(tmp_path / "check.npz", "w") as archive:
        archive.writestr("in/x.npy", header + shape.ljust(117) + b"\n" + bytes(12))
        archive.writestr("out/y.npy", b"")
    refused(tmp_path, imported(tmp_path, "--check", tmp_path / "check.npz"), "does not fit its 12 bytes")
    with zipfile.ZipFile(tmp_path / "check.npz", "w", zipfile.ZIP_DEFLATED) as archive:  # 65 kB that unpack to 64 MiB
        archive.writestr("in/x.npy", bytes((64 << 20) + 1))
    refused(tmp_path, imported(tmp_path, "--check", tmp_path / "check.npz"), "67108864 bytes in all")
    (tmp_path / "check.npz").write_bytes(b"hello")
    refused(tmp_path, imported(tmp_path, "--check", tmp_path / "check.npz"), "not an .npz file")


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    torch_file(tmp_path)

    def full(folder, contents):
        (folder / ".model.toml.part").write_bytes(b"")
        (folder / "model.toml").write_bytes(b"")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.programs.foreign.command.write_all", full)
    refused(tmp_path, imported(tmp_path), "No space left on device")


def test_a_graph_that_onnxruntime_computes_differently_is_refused(tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_bytes(stacked("GRU"))
    monkeypatch.setitem(ORDERS["onnx"], "gru", "rzn")  # a mistake of ours
    result = run(tmp_path / "net.onnx", "--out", tmp_path / "model")
    refused(tmp_path, result, "onnxruntime: output answer differs by", code=1)
