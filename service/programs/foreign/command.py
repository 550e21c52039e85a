"""`freshet import`: read, check, and write a model's files. Nothing is written unless every check has passed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from model.foreign.fitting import fit_spec, fit_weights
from model.foreign.refused import ForeignError
from model.network import Network
from model.spec import ModelSpec
from service.common.errors import Invalid
from service.common.limits import check_size
from service.console.files import ONNX, SPEC, WEIGHTS, part_of, spec_toml, write_all
from service.engine.export import download, export
from service.programs.backtest.plan import model_keys
from service.programs.foreign.checking import Differs, check_original, check_stored
from service.programs.foreign.reading import read_options, read_source

FILES = (SPEC, WEIGHTS, ONNX)


def run(
    file: Path,
    config: Path | None,
    settings: Sequence[str],
    check: Path | None,
    out: Path | None,
    force: bool,
    licence: str = "",
) -> int:
    """Import `file` and write the folder. Returns the exit code: 1 if answers differ. Raises Invalid, OSError."""
    folder = out or Path(file.stem)
    check_folder(folder, force)
    options = read_options(config, model_keys(None, settings))
    source = read_source(file, options)
    try:
        spec = fit_spec(source.stack, options)
        check_size(spec)
        network = Network(spec)
        flat = fit_weights(network, source.stack, options)
    except ForeignError as error:
        raise Invalid(error.field, error.value, error.remedy) from None
    said = []
    try:
        if source.graph is not None:
            said.append(check_original(source.data, source.stack, source.graph))
        if check is not None:
            said.append(check_stored(check, source.stack, source.graph, options.time_first))
    except Differs as error:
        print(f"freshet: {error}; nothing was written", file=sys.stderr)
        return 1
    made = export(network, network.weights(flat))
    write(folder, spec, made.weights, download(network, made.onnx, licence=licence))
    print(f"imported      {described(spec)}")
    for line in said:
        print(f"checked       {line}")
    print(f"written       {folder}: {', '.join(FILES)}")
    print(f"next          freshet models create NAME --from {folder}")
    return 0


def check_folder(folder: Path, force: bool) -> None:
    """Refuse a folder that cannot be written, or that is not empty unless forced. Raises Invalid."""
    if folder.exists():
        if not folder.is_dir():
            raise Invalid("out", str(folder), "is a file: name a folder with --out")
        if any(folder.iterdir()) and not force:
            raise Invalid(
                "out", str(folder), "exists: name another folder with --out, or replace its files with --force"
            )
    elif not folder.parent.is_dir():
        raise Invalid("out", str(folder), "name a folder in one that exists")


def write(folder: Path, spec: ModelSpec, weights: bytes, onnx: bytes) -> None:
    """Write FILES; after an error, remove those begun, and the folder if it is new. Raises OSError."""
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        write_all(folder, {SPEC: spec_toml(spec).encode(), WEIGHTS: weights, ONNX: onnx})
    except OSError:
        for name in FILES:
            part_of(folder, name).unlink(missing_ok=True)
            if new:
                (folder / name).unlink(missing_ok=True)
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def described(spec: ModelSpec) -> str:
    """Return the shape of a model in words."""
    layers = f"{spec.layers} layer{'s' * (spec.layers > 1)} of {spec.hidden} units"
    return f"{spec.cell}, {layers}: {len(spec.channels)} inputs, {spec.outputs} outputs, task {spec.task}"
