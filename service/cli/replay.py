"""`freshet replay`: learn a stopped server's journal again and compare the resulting weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from service.console.verbs import one_blas_thread, refused

OTHERWISE = 1


def replay(
    data: Annotated[
        Path, typer.Argument(help="Data directory of the server (`freshet serve --data`).", metavar="DATA")
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option("--from", help="Start from a trainer.db or a copy [default: the journal].", metavar="FILE"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw forecasts and losses in one file.", metavar="OUT.html|svg|png")
    ] = None,
) -> None:
    """Learn a stopped server's journal again and verify the weights.

    Prints the final weights of each model. On the way, the weights must equal those of every published version and of
    the trainer's checkpoint; the exit code is 1 if any differ. On another kind of machine, or with other versions of
    the libraries, the last bits may differ.
    """
    one_blas_thread()
    raise typer.Exit(_replay(data, checkpoint, plot))


def _replay(data: Path, checkpoint: Path | None, plot: Path | None) -> int:
    from service.common.errors import Invalid
    from service.datadir.refold import refold
    from service.journal.log import JournalLocked
    from service.journal.records import RecordError
    from service.journal.segments import JournalDamaged
    from service.programs.pictures.refolded import Refolds
    from service.programs.plots.output import check_plot, write_plot
    from service.storage.database import DatabaseRefused
    from service.trainer.checkpoint import CheckpointCorrupt, CheckpointInUse
    from service.trainer.hosting import WeightsGone

    unusable = (
        OSError, JournalLocked, JournalDamaged, RecordError, DatabaseRefused, CheckpointCorrupt, CheckpointInUse,
        WeightsGone, Invalid,
    )  # fmt: skip
    try:
        check_plot(plot)
        watch = None if plot is None else Refolds()
        results = refold(data, checkpoint, _progress if sys.stderr.isatty() else _silent, watch)
        if plot is not None and watch is not None:
            write_plot(watch.figure(), plot)
    except unusable as error:
        raise refused(error) from None
    for found in results:
        print(f"model {found.number}: entries {found.first} to {found.offset}, weights sha256 {found.digest}")
        print(f"  {len(found.met)} recorded on the way are the same{_named(found.met[-1:], ', the last ')}")
        if found.missed:
            print(f"  {len(found.missed)} are NOT{_named(found.missed[:5], ': ')}")
    return OTHERWISE if any(found.missed for found in results) else 0


def _named(what: list[str], before: str) -> str:
    return before + ", ".join(what) if what else ""


def _progress(position: int, end: int) -> None:
    print(f"\r{100 * position // end} % of {end / 1e6:.1f} MB", end="\n" if position >= end else "", file=sys.stderr)


def _silent(position: int, end: int) -> None:
    """Show no progress."""
