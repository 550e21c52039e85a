"""A training on standard error: a bar on a terminal, a plain line per epoch otherwise."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping

from model.offline import Epoch

Show = Callable[[Epoch, float], None]  # an epoch, and the seconds it took


def line(epoch: Epoch, baselines: Mapping[str, float], seconds: float) -> str:
    """An epoch in words: losses, the baselines' on the same held-out rows, and how long it took."""
    train = f"train {epoch.train:.4f}, " if epoch.number else ""
    others = ", ".join(f"{name} {loss:.4f}" for name, loss in baselines.items())
    held_out = f"held out {epoch.held_out:.4f} ({others})" if epoch.held_out == epoch.held_out else "nothing held out"
    return f"epoch {epoch.number}: {train}{held_out}{', best' if epoch.best else ''}, {seconds:.2f} s"


@contextlib.contextmanager
def shown_epochs(epochs: int, baselines: Mapping[str, float]) -> Iterator[Show]:
    """Show epochs as they end."""
    if sys.stderr.isatty():
        with _bar(epochs, baselines) as show:
            yield show
    else:
        yield lambda epoch, seconds: print(line(epoch, baselines, seconds), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(epochs: int, baselines: Mapping[str, float]) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(bar_width=20), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task, best = bar.add_task("epoch 0", total=epochs), ""

        def show(epoch: Epoch, seconds: float) -> None:
            nonlocal best
            if epoch.best:
                best = f"; best was epoch {epoch.number}"
            bar.update(task, completed=epoch.number, description=line(epoch, baselines, seconds) + best)

        yield show
