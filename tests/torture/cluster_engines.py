"""The stores of the torture of a cluster: a folder, SeaweedFS and PostgreSQL, behind a proxy for each node."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from service.cluster.store.postgres import initialise
from tests.engines.postgres import a_postgres
from tests.engines.proxy import Proxy
from tests.engines.seaweed import a_seaweed

NODES = 3
SETTINGS: dict[str, object] = {"snapshot_s": 0.3, "image_s": 1.0, "heartbeat_s": 0.2, "segment_bytes": 4096}


class Engine(NamedTuple):
    """A store of the torture: its URL, and by node, the proxies before it, and how to kill and start it."""

    url: str  # past all proxies
    urls: list[str]
    proxies: Sequence[Proxy] = ()
    restart: Callable[[], None] | None = None


@contextlib.contextmanager
def folder_engine(folder: Path) -> Iterator[Engine]:
    """A folder of this machine."""
    url = f"file://{folder / 'store'}"
    yield Engine(url, [url] * NODES)


@contextlib.contextmanager
def objects_engine(folder: Path) -> Iterator[Engine]:
    """SeaweedFS, behind a proxy for each node."""
    (folder / "seaweed").mkdir(parents=True)
    with a_seaweed(folder / "seaweed") as seaweed, _environment(seaweed.environment), _proxies(seaweed.port) as proxies:
        urls = [seaweed.url("torture", proxy.port) for proxy in proxies]
        yield Engine(seaweed.url("torture"), urls, proxies)


@contextlib.contextmanager
def postgres_engine(folder: Path) -> Iterator[Engine]:
    """PostgreSQL, behind a proxy for each node."""
    with a_postgres() as postgres, _proxies(postgres.port) as proxies:

        def restart() -> None:
            postgres.kill()
            postgres.start()

        initialise(postgres.url("torture"))
        urls = [postgres.url("torture", proxy.port) for proxy in proxies]
        yield Engine(postgres.url("torture"), urls, proxies, restart)


ENGINES = {"folder": folder_engine, "objects": objects_engine, "postgres": postgres_engine}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _proxies(port: int) -> Iterator[list[Proxy]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Proxy(port)) for _ in range(NODES)]
