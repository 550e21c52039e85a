"""Where the event loop of a server spends its CPU, by Python function: stacks sampled by a timer of CPU time.

`sampled(folder)` changes this process's sys.path, which a ServerChild hands to its server: the server's Python then
imports `sitecustomize` from that folder at its start, and writes its samples to the folder at its end.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PERIOD_S = 0.001  # the kernel's own tick may be longer
SHOWN, WIDEST = 60, 100
OUT = "samples.txt"


@contextlib.contextmanager
def sampled(folder: Path) -> Iterator[Path]:
    """Have servers that start within the block sampled; yield the file that they write. Send `START` to begin."""
    out = folder / OUT
    (folder / "sitecustomize.py").write_text(
        f"import sys\nif 'serve' in sys.orig_argv:\n    from bench._sampler import prepare\n    prepare({str(out)!r})\n"
    )
    sys.path.insert(0, str(folder))
    try:
        yield out
    finally:
        sys.path.remove(str(folder))


START = signal.SIGUSR2


def prepare(out: str) -> None:
    """Sample this process from the signal `START` on, and write the counts to `out` when it exits."""
    samples, inclusive, exclusive = 0, Counter[str](), Counter[str]()

    def sample(_signal: int, frame: FrameType | None) -> None:
        nonlocal samples
        samples += 1
        names = []
        while frame is not None:
            code = frame.f_code
            names.append(f"{_short(code.co_filename)}:{code.co_name}")
            frame = frame.f_back
        exclusive[names[0]] += 1
        inclusive.update(set(names))

    def write() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        with Path(out).open("w", encoding="utf-8") as file:
            for title, counts in (("with what it calls", inclusive), ("alone", exclusive)):
                print(f"share of {samples} samples, a function {title}:", file=file)
                for name, n in counts.most_common(SHOWN):
                    print(f"  {n / max(samples, 1):6.1%}  {name[:WIDEST]}", file=file)

    signal.signal(signal.SIGPROF, sample)
    signal.signal(START, lambda *_: signal.setitimer(signal.ITIMER_PROF, PERIOD_S, PERIOD_S))
    atexit.register(write)


def _short(path: str) -> str:
    for part in ("site-packages", f"python{sys.version_info[0]}.{sys.version_info[1]}", Path(__file__).parents[1].name):
        path = path.rpartition(f"{os.sep}{part}{os.sep}")[2]
    return path
