"""`freshet import`: what it reads, checks, writes and refuses."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors import numpy as safetensors
from typer.testing import CliRunner

from model.network import Network
from model.spec import ModelSpec
from service.cli.main import app
from service.console.files import load_weights
from service.engine.export import read_weights
from tests import foreign_samples as samples

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
