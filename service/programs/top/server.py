"""The queries of one look at a server: metrics and readiness over HTTP, models and events over gRPC."""

from __future__ import annotations

import asyncio
import time
import urllib.error
from collections.abc import Collection, Sequence
from http import HTTPStatus
from typing import NoReturn

import freshet
from freshet import EventKind, Model, ModelEvent
from service.console.exposition import Scrape
from service.console.remote import Remote
from service.programs.top.view import VERDICTS, Look, Verdict, WorstStream, has_report

TIMEOUT_S = 5.0
AGAIN_S = 1.0
WORST = 10  # streams
SHOWN_BYTES = 1000  # of an error page
REMEMBERED = 10_000  # past events to request at the start, enough for the last verdict of each model


class Server:
    """A running server, seen through its two ports. A look reports a source that does not answer."""

    def __init__(self, client: freshet.Client, remote: Remote, http: str, shown: Collection[str] = ()) -> None:
        """shown: names of the models that are shown; empty: all."""
        self._client, self._remote, self._http, self._shown = client, remote, http, shown
        self._verdicts: dict[str, Verdict] = {}

    async def look(self) -> Look:
        """Query all sources and return the result."""
        (status, text, why), (_, ready, _), (models, no_models) = await asyncio.gather(
            self._get("metrics"), self._get("readyz"), self._models()
        )
        metrics = None
        if status == HTTPStatus.OK:
            try:
                metrics = await asyncio.to_thread(Scrape.parse, text)
            except ValueError as error:
                why = f"{self._remote.page(self._http, 'metrics')} is no page of a freshet server: {error}"
        if status == HTTPStatus.FORBIDDEN and models and all(map(has_report, models)):
            why = ""  # only administrators may read metrics; the list of models has this tenant's numbers
        troubles = [trouble for trouble in (why, no_models) if trouble]
        worst = await self._worst(models or ())
        verdicts = dict(self._verdicts)
        return Look(time.monotonic(), time.time(), metrics, models, ready.strip(), troubles, verdicts, worst)

    async def listen(self) -> NoReturn:
        """Receive events until cancelled, and keep each model's last verdict."""
        while True:
            try:
                for event in await self._client.history("", REMEMBERED):
                    self._hear(event)
                async for event in self._client.watch():
                    self._hear(event)
            except freshet.FreshetError:  # `look` reports it
                await asyncio.sleep(AGAIN_S)

    def _hear(self, event: ModelEvent) -> None:
        if event.kind == EventKind.DELETED:
            self._verdicts.pop(event.model, None)
        elif event.kind in VERDICTS:
            self._verdicts[event.model] = Verdict.of(event)

    async def _models(self) -> tuple[Sequence[Model] | None, str]:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._client.list_models(), ""
        except TimeoutError:
            return None, f"no list of models: no answer within {TIMEOUT_S:g} s"
        except freshet.Unavailable as error:
            return None, f"no list of models: {self._remote.unavailable(error)}"
        except freshet.FreshetError as error:
            return None, f"no list of models: {error}"

    async def _worst(self, models: Sequence[Model]) -> Sequence[WorstStream]:
        """Return the worst streams of the first model shown; none while the trainer is away, or of an older server."""
        names = sorted(m.name for m in models if not self._shown or m.name in self._shown)
        if not names:
            return ()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await self._client.stream_errors(names[0], WORST)
        except (TimeoutError, freshet.FreshetError):
            return ()
        return [
            WorstStream(names[0], one.stream, one.ratio, one.steps[0].labels)
            for one in found
            if one.ratio is not None and one.steps
        ]

    async def _get(self, path: str) -> tuple[int, str, str]:
        """Return status and text of a page, and the reason if there is none."""
        url = self._remote.page(self._http, path)
        try:
            return *await asyncio.to_thread(self._remote.fetch, url, TIMEOUT_S), ""
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(SHOWN_BYTES).decode(errors="replace")
            said = "".join(f": {line}" for line in text.splitlines()[:1])
            return error.code, text, f"{url} answers {error.code} {error.reason}{said}"
        except OSError as error:
            return 0, "", f"no {url}: {getattr(error, 'reason', error)}"
