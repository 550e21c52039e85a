"""A person at the page: a browser's window, what its console said, and which hosts it asked."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, expect

DEADLINE_MS = 60_000  # of whatever must appear; three test processes share two cores
VIEWS = {
    "forecast": ("forecast",),
    "errors": ("error", "worst", "horizon", "coverage"),
    "gradient": ("lags", "norm", "ratio"),
    "state": ("state",),
    "versions": ("timeline", "versions"),
    "service": ("latency", "training", "freshness", "counts"),
}

expect.set_options(timeout=DEADLINE_MS)


class Looking:
    """One window with a fresh profile. expected: parts of console messages that the test provokes."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._said: list[str] = []
        self._asked: list[str] = []
        self.expected: list[str] = []

    async def __aenter__(self) -> Self:
        self._context: BrowserContext = await self._browser.new_context(accept_downloads=True)
        self._context.set_default_timeout(DEADLINE_MS)
        self.page: Page = await self._context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self._said.append(str(error)))
        self.page.on("request", self._request)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._context.close()

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._said.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).scheme not in ("blob", "data"):
            self._asked.append(request.url)

    def check(self) -> None:
        """Fail if the console has an unexpected line, or a request left the server."""
        left = [line for line in self._said if not any(part in line for part in self.expected)]
        assert not left, left
        assert self._asked, "the page was never opened"
        origins = {urlsplit(url).netloc for url in self._asked}
        assert len(origins) == 1, origins
        assert not [url for url in self._asked if "token" in url.lower()]

    async def open(self, http: str, model: str = "", **route: str | list[str]) -> None:
        """Open the page by its link, as a bookmark does."""
        query = urlencode(route, doseq=True)
        await self.page.goto("about:blank")  # a link that differs in its hash alone would not load the page again
        await self.page.goto(f"http://{http}/#/{quote(model, safe='')}" + (f"?{query}" if query else ""))

    def at(self, testid: str) -> Locator:
        """Return the element with this data-testid."""
        return self.page.get_by_test_id(testid)

    async def tab(self, view: str) -> None:
        """Choose a view by its tab."""
        await self.at(f"tab-{view}").click()
        await expect(self.at(f"view-{view}")).to_be_visible()

    async def open_table(self, panel: str, rows: int = 1) -> None:
        """Open the table behind a panel, if it is not the panel itself, and wait until it has as many rows."""
        if panel != "versions":
            await self.at(f"panel-{panel}").locator("summary", has_text="Table").click()
        await self.until(
            """document.querySelectorAll(`[data-testid="table-${it[0]}"] tbody tr`).length >= it[1]""", [panel, rows]
        )

    async def table(self, panel: str) -> list[list[str]]:
        """Return the cells of the table behind a panel, its head first."""
        rows: list[list[str]] = await self.at(f"table-{panel}").evaluate(
            "table => [...table.querySelectorAll('tr')].map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return rows

    async def until(self, expression: str, argument: Any = None) -> None:
        """Wait until a JavaScript expression of `it`, the argument, is true in the page."""
        await self.page.wait_for_function(f"it => ({expression})", arg=argument, timeout=DEADLINE_MS)
