"""Progress of a training on standard error: a bar on a terminal, otherwise a plain line per epoch."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping

from model.offline.training import Epoch

Show = Callable[[Epoch, float], None]  # (epoch, its seconds)


def line(epoch: Epoch, baselines: Mapping[str, float], seconds: float) -> str:
    """Return an epoch as a line: its losses, those of the first and the best baseline, and its duration."""
    others = f" ({beside(ends(baselines))})" if math.isfinite(epoch.held_out) else ""
    return f"epoch {epoch.number}: {losses(epoch)}{others}{', best' if epoch.best else ''}, {seconds:.2f} s"


def losses(epoch: Epoch) -> str:
    """Return the losses of an epoch as text."""
    train = f"train {epoch.train:.4f}, " if epoch.number else ""
    return train + (f"held out {epoch.held_out:.4f}" if math.isfinite(epoch.held_out) else "nothing held out")


def beside(baselines: Mapping[str, float]) -> str:
    """Return the baselines' losses as text."""
    return ", ".join(f"{name} {loss:.4f}" for name, loss in baselines.items())


def ends(baselines: Mapping[str, float]) -> dict[str, float]:
    """Return the first baseline, such as persistence, and the best one."""
    finite = [name for name, loss in baselines.items() if math.isfinite(loss)]
    kept = [*finite[:1], *sorted(finite, key=baselines.__getitem__)[:1]]
    return {name: baselines[name] for name in kept}


@contextlib.contextmanager
def shown_epochs(epochs: int, baselines: Mapping[str, float]) -> Iterator[Show]:
    """Yield a function that shows an epoch when it ends."""
    if sys.stderr.isatty():
        with _bar(epochs, baselines) as show:
            yield show
    else:
        if any(map(math.isfinite, baselines.values())):
            print(f"held out beside: {beside(baselines)}", file=sys.stderr, flush=True)
        yield lambda epoch, seconds: print(line(epoch, baselines, seconds), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(epochs: int, baselines: Mapping[str, float]) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(bar_width=10), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    console.print(f"held out beside: {beside(baselines)}", highlight=False)
    with Progress(*columns, console=console) as bar:
        task, best = bar.add_task("epoch 0", total=epochs), 0

        def show(epoch: Epoch, seconds: float) -> None:
            nonlocal best
            best = epoch.number if epoch.best else best
            text = f"epoch {epoch.number}: {losses(epoch)}; best was {best}"  # fits 80 columns
            bar.update(task, completed=epoch.number, description=text)

        yield show
