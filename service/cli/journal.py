"""`freshet journal …`: check the journal of a stopped server, and repair a damaged one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.console.verbs import group, refused

if TYPE_CHECKING:
    from service.datadir.repair import Report, Span

journal = group("journal", "The journal of a stopped server: check it, repair it.")

Data = Annotated[Path, typer.Argument(help="Data directory of the server (`freshet serve --data`).", metavar="DATA")]
DAMAGED = 1


@journal.command()
def check(data: Data) -> None:
    """Report the content of a journal and whether a server would start on it.

    Changes nothing. Exit code 1 if a server would refuse the journal.
    """

    def work() -> int:
        from service.datadir.repair import check as verb

        return _show(verb(data))

    raise typer.Exit(_guarded(work))


@journal.command()
def repair(data: Data) -> None:
    """Cut a damaged journal before the damage and report what is lost.

    The part that is cut off is first copied to DATA/quarantine-…. Nothing after the damage is used again. If the last
    snapshot of the streams was saved after the damage, the streams keep it, and a new journal continues from there.
    """

    def work() -> int:
        from service.datadir.repair import repair as verb

        report, quarantine = verb(data, time.strftime("quarantine-%Y%m%dT%H%M%S"))
        if quarantine is None:
            code = _show(report)
            print("nothing to repair" if code == 0 else "there is no damage to cut off")
            return code
        _show(report)
        print(f"the journal continues at position {report.end}; what was cut off is in {quarantine}")
        return 0

    raise typer.Exit(_guarded(work))


def _show(report: Report) -> int:
    print(f"segments {report.segments}, positions {report.start} to {report.end}")
    for model, span in sorted(report.held.items()):
        print(f"{_model(model, report)}: {_entries(span)}")
    if report.torn_bytes:
        print(f"torn: {report.torn_bytes} bytes of a commit that was never acknowledged; the next start cuts them off")
    for model, span in sorted(report.lost.items()):
        print(f"{_model(model, report)}: after the damage, {_entries(span)}")
    print(f"damaged: {report.problem}" if report.problem else "whole")
    return DAMAGED if report.problem else 0


def _model(number: int, report: Report) -> str:
    from service.console.tables import shown

    name = report.names.get(number, "").removeprefix("default/")
    return f"model {number}, {shown(name)}" if name else f"model {number}"


def _entries(span: Span) -> str:
    first, end = span
    return f"{end - first} entries, offsets {first} to {end}"


def _guarded(work: Callable[[], int]) -> int:
    from service.datadir.repair import RepairRefused
    from service.journal.log import JournalLocked
    from service.journal.records import RecordError
    from service.journal.segments import JournalDamaged

    try:
        return work()
    except (OSError, JournalLocked, JournalDamaged, RecordError) as error:
        raise refused(error) from None
    except RepairRefused as error:
        print(f"freshet: {error}", file=sys.stderr)
        return DAMAGED
