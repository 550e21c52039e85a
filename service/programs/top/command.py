"""The loop of `freshet top`: scrape the server, show the view, wait, until the user quits."""

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
    """Show the server until the user quits, and return the exit code.

    once: show one view, made of two looks; the exit code is 1 if a source is refused or does not answer, or a model
    does not exist. models: names to show; empty: all.
    """
    server, history = Server(client, remote, http, models), History()

    async def views() -> AsyncIterator[View]:
        while True:
            seen = history.add(await server.look())
            yield only(seen, models) if models else seen
            await asyncio.sleep(interval_s)

    async def show_views(show: Show) -> NoReturn:
        async for view in views():
            show(view)
        raise AssertionError("views never end")

    listening = asyncio.create_task(server.listen())
    try:
        if once:
            return await _once(views(), as_json)
        if as_json or not sys.stdout.isatty():
            await show_views(_print_json if as_json else _lines())
        else:
            quit = asyncio.Event()
            with _terminal(history, remote.url, quit) as show:
                await beside(show_views(show), quit.wait())
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
    words: list[str] = []  # those of the first view: columns stay

    def show(view: View) -> None:
        if not words:
            words.extend(lines.words(view))
            print(lines.header(words))
        print("\n".join(lines.plain(view, words)), flush=True)

    return show


@contextlib.contextmanager
def _terminal(history: History, url: str, quit: asyncio.Event) -> Iterator[Show]:
    """Draw on the whole terminal, again after a change of its size, and restore it at the end."""
    console, loop = Console(), asyncio.get_running_loop()
    last: View | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live, _keys(quit):

        def draw() -> None:
            width, height = os.get_terminal_size(sys.stdout.fileno())  # rich would use $COLUMNS, which does not change
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
    """Read single keys without echo, if standard input is a terminal, and set `quit` for q."""
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
