"""Shared by all benchmarks: rows with bounds, a table for people, JSON for machines.

A benchmark is a module with `main(argv) -> int`. It makes its parser with `parser`, collects `Row`s and ends with
`finish`. Importing this module does not start BLAS: it uses the standard library and, only if loaded, NumPy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number. asked: its bound; None: reported without a bound."""

    case: str
    metric: str
    value: float
    unit: str  # base units (s, B) or "ratio"
    asked: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def holds(self) -> bool:
        """Whether the value meets its bound; NaN never does."""
        if self.asked is None:
            return True
        return self.value <= self.asked if self.better == "lower" else self.value >= self.asked

    def to_mapping(self) -> dict[str, Any]:
        """Return the row for JSON; a value that is not finite becomes null."""
        value = self.value if math.isfinite(self.value) else None
        return {"case": self.case, "metric": self.metric, "value": value, "unit": self.unit,
                "asked": self.asked, "better": self.better, "holds": self.holds}  # fmt: skip


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return an argument parser with --json; a benchmark adds its own options."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="OUT", help="also write machine and rows to this file")
    return made


def one_blas_thread() -> None:
    """Limit BLAS to one thread. Raises RuntimeError if NumPy, which reads the limit at import, is already imported."""
    if "numpy" in sys.modules and any(os.environ.get(name) != "1" for name in THREAD_VARIABLES):
        raise RuntimeError("numpy is already imported: call one_blas_thread() before the first import of numpy")
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))


def machine() -> dict[str, Any]:
    """Return the machine's facts: processor, cores, and the versions and BLAS that affect the figures."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
        facts |= {"numpy": numpy.__version__, "blas": f"{blas['name']} {blas.get('version', '')}".strip()}
    for name in ("torch", "jax", "onnxruntime", "grpc"):
        if name in sys.modules:
            facts[name] = str(sys.modules[name].__version__)
    return facts


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def alternated(blocks: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Run all blocks in turn `repeats` times, and return the median seconds of each.

    Turns spread other load on the machine evenly. A block measures itself and returns seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(repeats):
        for name, block in blocks.items():
            taken[name].append(block())
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def table(rows: Iterable[Row]) -> str:
    """Return the rows as aligned text; a row that misses its bound is marked."""
    head = ("case", "metric", "value", "unit", "asked", "")
    cells = [(row.case, row.metric, f"{row.value:.4g}", row.unit, *_verdict(row)) for row in rows]
    lines = [head, *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _verdict(row: Row) -> tuple[str, str]:
    if row.asked is None:
        return "-", ""
    return f"{'<=' if row.better == 'lower' else '>='} {row.asked:.4g}", "ok" if row.holds else "MISSED"


def finish(rows: Sequence[Row], out: Path | None) -> int:
    """Print machine and table, write the JSON if `out` is given, and return the exit code: 0 if every row holds."""
    facts = machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(table(rows))
    if out is not None:
        out.write_text(json.dumps({"machine": facts, "rows": [row.to_mapping() for row in rows]}, indent=1) + "\n")
    return 0 if all(row.holds for row in rows) else 1
