"""`freshet store …`: make a store ready for nodes, and check that it keeps its promises."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from service.console.verbs import INTERRUPTED, group, refused

if TYPE_CHECKING:
    from service.cluster.store.probe import Found

store = group("store", "The store that nodes share: make it ready, check it.")

Url = Annotated[
    str,
    typer.Argument(
        envvar="FRESHET_STORE",
        help="URL of the store, as in the setting `store`. Prefer the variable for one with a password: other users "
        "can read a command line.",
        metavar="URL",
        show_default=False,
    ),
]
Rounds = Annotated[int, typer.Option(min=1, help="Races for one entry, and writes that are measured.")]
Writers = Annotated[int, typer.Option(min=2, max=64, help="Writers in a race.")]


@store.command()
def init(url: Url) -> None:
    """Make a store ready: the tables of PostgreSQL, or a folder. Also migrates tables of an earlier version.

    A bucket must exist already, and needs nothing else. May be repeated.
    """

    def work() -> None:
        from service.cluster.store.opening import prepare

        print(prepare(url))

    _run(work)


@store.command()
def check(url: Url, rounds: Rounds = 50, writers: Writers = 8) -> None:
    """Check that a store keeps the promises that nodes rely on, and measure it.

    Writers race for the same entry, a former owner writes after a claim, and every acknowledged write is looked for
    through a second connection. Exit code 1 if the store fails. What is written is deleted afterwards. A node does a
    short form of this when it starts.
    """

    def work() -> None:
        from service.cluster.store.opening import open_store
        from service.cluster.store.probe import probe, steps
        from service.console.progress import progress

        opened, other = open_store(url), open_store(url)
        try:
            with progress("check", steps(rounds), "step") as shown:
                found = probe(opened, (rounds, writers), other, shown.advance)
        finally:
            opened.close()
            other.close()
        _show(opened.url, found)

    _run(work)


def _show(url: str, found: Found) -> None:
    print(f"{'one writer':<10}{'calls':>7}{'p50':>12}{'p99':>12}")
    for operation, calls, p50_s, p99_s in found.latencies():
        print(f"{operation:<10}{calls:>7}{p50_s * 1e3:>9.1f} ms{p99_s * 1e3:>9.1f} ms")
    print(
        f"{url}: passed: {found.races} races, each with one winner; {found.stale} writes of a former owner, all "
        f"refused; {found.seen} acknowledged writes, all seen"
    )


def _run(work: Callable[[], None]) -> None:
    from service.cluster.store.seam import StoreRefused, StoreUnavailable

    try:
        work()
    except (StoreRefused, StoreUnavailable) as error:
        print(f"freshet: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except OSError as error:
        raise refused(error) from None
    except KeyboardInterrupt:
        print("freshet: interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
