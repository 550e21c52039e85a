"""`freshet top` at work: looks at the server again and again, and shows what it saw until somebody has seen enough."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from typing import NoReturn

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

import freshet
from service.console.remote import Remote
from service.programs.backtest.through_service import beside
from service.programs.top import lines
from service.programs.top.screen import screen
from service.programs.top.server import Server
from service.programs.top.view import History, View, only

QUIT = b"q"

Show = Callable[[View], None]


async def top(
    client: freshet.Client,
    http: str,
    remote: Remote,
    models: Collection[str],
    interval_s: float,
    once: bool,
    as_json: bool,
) -> int:
    """Look and show until the user quits; returns the exit code.

    once: one view, of two looks; 1 if anything is refused or does not answer, or a model is not there.
    models: names to show; empty: all.
    """
    server, history = Server(client, remote, http), History()

    async def views() -> AsyncIterator[View]:
        while True:
            seen = history.add(await server.look())
            yield only(seen, models) if models else seen
            await asyncio.sleep(interval_s)

    async def go_on(show: Show) -> NoReturn:
        async for view in views():
            show(view)
        raise AssertionError("views never end")

    listening = asyncio.create_task(server.listen())
    try:
        if once:
            return await _once(views(), as_json)
        if as_json or not sys.stdout.isatty():
            await go_on(_print_json if as_json else _lines())
        else:
            quit = asyncio.Event()
            with _terminal(history, remote.url, quit) as show:
                await beside(go_on(show), quit.wait())
        return 0
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def _once(views: AsyncIterator[View], as_json: bool) -> int:
    await anext(views)
    view = await anext(views)
    if view.away is not None:
        print(f"freshet: {'; '.join(view.troubles)}", file=sys.stderr)
        return 1
    (_print_json if as_json else _lines())(view)
    return 1 if view.troubles else 0


def _print_json(view: View) -> None:
    print(json.dumps(lines.mapping(view), ensure_ascii=False), flush=True)


def _lines() -> Show:
    print(lines.header())

    def show(view: View) -> None:
        print("\n".join(lines.plain(view)), flush=True)

    return show


@contextlib.contextmanager
def _terminal(history: History, url: str, quit: asyncio.Event) -> Iterator[Show]:
    """The whole terminal, drawn again where its size changes, and given back as it was."""
    console, loop = Console(), asyncio.get_running_loop()
    last: View | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live, _keys(quit):

        def draw() -> None:
            width, height = os.get_terminal_size(sys.stdout.fileno())  # rich would believe $COLUMNS, which stays
            console.size = ConsoleDimensions(width or 80, height or 24)
            looking = [Text(f"looking at {url} …")]
            rows = looking if last is None else screen(last, history.points, url, *console.size)
            live.update(Group(*rows), refresh=True)

        def show(view: View) -> None:
            nonlocal last
            last = view
            draw()

        draw()
        loop.add_signal_handler(signal.SIGWINCH, draw)
        try:
            yield show
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)


@contextlib.contextmanager
def _keys(quit: asyncio.Event) -> Iterator[None]:
    """Keys as they are pressed, unseen; a terminal's, where there is one to press them on."""
    if not sys.stdin.isatty():
        yield
        return
    loop, keyboard = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def pressed() -> None:
        keys = os.read(keyboard, 1 << 10)
        if not keys or QUIT in keys.lower():
            quit.set()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
