"""`freshet train` and `freshet import`, which write a model's files: their options.

The work is imported inside, so that `freshet --help` does not load NumPy.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.reading import reading
from service.console.remote import Remote
from service.console.verbs import SPEC_KEYS, asking, guarded, one_blas_thread


class Mode(StrEnum):
    """Length of backpropagation: one window, or whole segments."""

    TRUNCATED = "truncated"
    WHOLE = "whole"


@asking
@reading
def train(
    file: Annotated[Path, typer.Argument(help="The recorded history.", metavar="HISTORY.csv")],
    config: Annotated[Path | None, typer.Option(help="Keys of the model's spec, TOML.", metavar="MODEL.toml")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help=f"A key of the model's spec; repeatable. Keys: {SPEC_KEYS}.", metavar="KEY=VALUE"),
    ] = None,
    columns: Annotated[str, typer.Option(help="Channels: a,b,… (quoted as in CSV), or all.")] = "all",
    known: Annotated[
        str | None, typer.Option(help="Columns known ahead: a,b,… Each row sends the next rows' values.", metavar="A,B")
    ] = None,
    static: Annotated[
        str | None, typer.Option(help="Columns with one value per series, such as its region.", metavar="A,B")
    ] = None,
    options: Any = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Columns with the labels or the class, for --set task=regress or task=classify."),
    ] = None,
    horizon: Annotated[int | None, typer.Option(help="Forecast 1..H rows ahead [default: 1].", metavar="H")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Initial weights: a file, or a folder of `freshet train`.", metavar="DIR")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Use only the first N rows of each series.", metavar="N")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of initial weights and order [default: 0].", metavar="S")
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="Backpropagate through one window, or through whole segments.")
    ] = Mode.TRUNCATED,
    segments: Annotated[
        int | None, typer.Option(help="Segments side by side, for --mode whole [default: 1].", metavar="N")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Largest number of passes over the history.", metavar="N")] = 100,
    patience: Annotated[
        int, typer.Option(help="Passes without a better held-out loss before training stops.", metavar="P")
    ] = 10,
    held_out: Annotated[float, typer.Option(help="Share of the rows, at the end, to hold out.", metavar="SHARE")] = 0.2,
    learning_rate: Annotated[
        float | None, typer.Option(help="Step size [default: 4 times the spec's].", metavar="RATE")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write [default: HISTORY-model].", metavar="DIR")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of an earlier training in DIR.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write history.json to this file too.", metavar="OUT")] = None,
    server: Remote | None = None,
    create: Annotated[
        str | None, typer.Option(help="Create this model on the server, these weights as version 1.", metavar="NAME")
    ] = None,
) -> None:
    """Train a model on a recorded history.

    Makes several passes and keeps the weights with the best loss on held-out rows. Writes model.toml,
    weights.safetensors, model.onnx, history.json and loss.svg. Ctrl-C keeps the best weights so far.
    """
    one_blas_thread()
    from service.common.errors import Invalid
    from service.console.files import keys_beside
    from service.programs.backtest.command import check_outputs
    from service.programs.backtest.plan import model_keys
    from service.programs.offline.command import Target, run
    from service.programs.offline.plan import make_offline_plan

    def work() -> int:
        check_outputs(json=json)
        if (server is None) != (create is None):
            given, value, other = ("create", create, "url") if server is None else ("url", server.url, "create")
            raise Invalid(given, value, f"goes with --{other}")
        beside = keys_beside(weights) if config is None else {}
        plan = make_offline_plan(
            file,
            options=options(),
            columns=columns,
            model=beside | model_keys(config, settings or (), horizon=horizon, seed=seed, known=known, static=static),
            weights=weights,
            labels=labels,
            rows=rows,
            mode=mode.value,
            segments=segments,
            epochs=epochs,
            patience=patience,
            held_out=held_out,
            learning_rate=learning_rate,
        )
        target = Target(server, create) if server is not None and create is not None else None
        return run(plan, out or Path(f"{file.stem}-model"), force, json, target)

    raise typer.Exit(guarded(work))


def import_weights(
    file: Annotated[Path, typer.Argument(help="A state_dict, or an ONNX graph.", metavar="FILE.safetensors|FILE.onnx")],
    config: Annotated[
        Path | None, typer.Option(help="Names, order of gates, units; needed for a state_dict.", metavar="IMPORT.toml")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the model's spec; repeatable.", metavar="KEY=VALUE")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Arrays in/NAME and out/NAME that must be reproduced.", metavar="FILE.npz")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write [default: FILE's name].", metavar="DIR")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of a model in DIR.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for model.onnx.", metavar="TEXT")] = "",
) -> None:
    """Import weights from PyTorch, Keras or an ONNX graph.

    Reads LSTM, GRU and simple recurrent layers and one linear readout. The outputs of an ONNX graph are compared with
    onnxruntime's. Writes model.toml, weights.safetensors and model.onnx, for `freshet models create NAME --from DIR`.
    docs/onnx.md lists the keys of IMPORT.toml.
    """
    one_blas_thread()
    from service.programs.foreign.command import run

    raise typer.Exit(guarded(lambda: run(file, config, settings or (), check, out, force, licence)))
