"""Score every cell on the recorded series in --data, beside the baselines: mean squared error of a whole replay.

A replay learns online in one pass, as `freshet backtest` does, with the defaults of the spec. Each cell forecasts in
the mixture, and alone (forecaster = network), which shows what the cell itself learns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.report import Row, finish, one_blas_thread, parser

one_blas_thread()

from bench.series import Baselines, replayed  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)
from model.cells import CELLS  # noqa: E402
from service.console.progress import progress  # noqa: E402
from service.programs.backtest.plan import make_plan, model_keys  # noqa: E402

FILES = {"ETTh2": "ETTh2.csv", "ETTm1": "ETTm1_head.csv", "taxi": "nyc_taxi.csv"}
VARIANTS: dict[str, dict[str, Any]] = {name: {"cell": name} for name in CELLS}
VARIANTS |= {f"{name}, rtrl": {"cell": name, "rule": "rtrl"} for name in ("lru", "mingru")}
FORECASTERS = ("mixture", "network")


def cases(arguments: Any) -> Iterator[tuple[str, int, str, str]]:
    """Yield set, horizon, cell and forecaster of each wanted replay."""
    for name in FILES:
        for horizon in arguments.horizons:
            for cell in VARIANTS:
                for forecaster in FORECASTERS:
                    if cell in (arguments.cells or VARIANTS) and (arguments.data / FILES[name]).exists():
                        yield name, horizon, cell, forecaster


def score(arguments: Any, known: Baselines, name: str, horizon: int, cell: str, forecaster: str) -> list[Row]:
    """Replay one case and return its error, and its ratio to the best baseline."""
    keys = {"forecaster": forecaster, "seed": arguments.seed, "horizon": horizon, **VARIANTS[cell]}
    plan = make_plan(arguments.data / FILES[name], model=keys | model_keys(None, arguments.set), rows=arguments.rows)
    baselines = {of: errors["mse"] for of, errors in known.of(f"{name}, {horizon}", plan).items()}
    best = min(baselines, key=baselines.__getitem__)
    scores, _ = replayed(plan)
    mse = scores.to_mapping()["mse"]
    case = f"{name}, horizon {horizon}"
    return [
        Row(case, f"{cell}, {forecaster}", mse, "z²"),
        Row(case, f"{cell}, {forecaster} / {best}", mse / baselines[best], "ratio"),
        Row(case, f"{cell}, {forecaster} / persistence", mse / baselines["persistence"], "ratio"),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Replay the cases and print the table."""
    options = parser(__doc__)
    options.add_argument("--cells", nargs="+", choices=VARIANTS, help="default: all")
    options.add_argument("--horizons", nargs="+", type=int, default=[1, 24])
    options.add_argument("--rows", type=int, default=6000, help="of each series, from its first")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the model's spec")
    options.add_argument("--seed", type=int, default=0, help="of the weights")
    options.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the recorded series")
    options.add_argument("--baselines", type=Path, metavar="FILE", help="keep the baselines' scores in this file")
    arguments = options.parse_args(argv)
    known, rows, chosen = Baselines(arguments.baselines), [], list(cases(arguments))
    with progress("replays", len(chosen), "replay") as shown:
        for case in chosen:
            rows += score(arguments, known, *case)
            shown.note(f"{rows[-3].case:<18} {rows[-3].metric:<22} {rows[-3].value:.4f}  {rows[-2].value:.3f} of best")
            shown.advance()
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
