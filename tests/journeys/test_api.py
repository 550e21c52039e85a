"""The page and /api/v1 over HTTP: a real server, and a client that sends what it likes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import freshet
from freshet.v1 import models_pb2
from freshet.v1.models_pb2_grpc import ModelsStub
from service.common.limits import MAX_BODY_BYTES
from service.programs.backtest.child import ServerChild
from service.viewing.seen import MAX_VIEWERS
from tests.journeys.conftest import QUICK
from tests.journeys.crash import mutate
from tests.journeys.credentials import Entry, bearer, replace, written
from tests.journeys.raw import DEADLINE_S, channel_to
from tests.journeys.scraped import scrape
from tests.journeys.test_access import ONE_TENANT, OPEN_DOOR
from tests.journeys.test_limits import crowd_at
from tests.journeys.web import Answer, EventStream, act, ask

ENTRIES = (
    Entry("a-predict", "a", "predict"), Entry("a-train", "a", "train"), Entry("a-admin", "a", "admin", 'name = "boss"'),
    Entry("a-expired", "a", "admin", "expires = 2020-01-01T00:00:00Z"), Entry("b-admin", "b", "admin"),
    Entry("scraper", "a", "metrics"), Entry("root", "default", "admin"),
)  # fmt: skip
UNKNOWN = (None, "a-admim", "a-expired", "", "0" * 64)
RANKS = {"scraper": 0, "a-predict": 1, "a-train": 2, "a-admin": 3}

# Written down again, by hand: the rank that each route needs. 0: any token. None: who sees all tenants.
FLOW = "/api/v1/models/flow"
READS: dict[str, int | None] = {
    "/api/v1": 0, "/api/v1/": 0, "/api/v1/models": 1, FLOW: 1, f"{FLOW}/streams": 1, f"{FLOW}/streams/pump/ticks": 1,
    f"{FLOW}/streams/pump/ticks/3": 1, f"{FLOW}/errors": 1, f"{FLOW}/versions": 1, f"{FLOW}/events": 1,
    f"{FLOW}/gradients": 1, "/api/v1/service": None,
}  # fmt: skip
ACTS = {
    f"{FLOW}/pause": {},
    f"{FLOW}/resume": {},
    f"{FLOW}/rollback": {"version": 1},
    f"{FLOW}/promote": {"version": 1},
}
NAMES_NONE = {"/api/v1", "/api/v1/", "/api/v1/models", "/api/v1/service"}


TICKS_AT_ONCE = 500  # of one stream: much for a viewer between two looks

CROSS_SITE: tuple[dict[str, str], ...] = (
    {"content_type": "text/plain"}, {"content_type": "application/x-www-form-urlencoded"}, {"content_type": ""},
    {"origin": "http://attacker.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"},
    {"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"},
)  # fmt: skip


class House:
    """A server with an access file and an audit file; tenant a has a model "flow" with a stream "pump"."""

    def __init__(self, folder: Path) -> None:
        self.access, self.audit = folder / "access.toml", folder / "audit.jsonl"
        self.access.write_text(written(*ENTRIES))
        settings = QUICK | {"access": self.access, "audit": self.audit}
        self.child = ServerChild(folder / "data", folder / "log", settings=settings)

    def client(self, token: str = "a-admin") -> freshet.Client:
        return freshet.connect(self.child.grpc, token=token)

    async def ask(self, path: str, token: str | None = "a-admin", **how: Any) -> Answer:
        return await ask(self.child.http, path, token, **how)

    def lines(self) -> list[dict[str, Any]]:
        """The audit log."""
        return [json.loads(line) for line in self.audit.read_text().splitlines()]

    async def memory(self) -> float:
        """Resident bytes of the server."""
        return (await scrape(self.child.http, "root")).total("process_resident_memory_bytes")

    async def act(self, path: str, token: str | None = "a-admin", body: Any = None, **how: Any) -> Answer:
        return await act(self.child.http, path, token, body, **how)


async def ticks(client: freshet.Client, model: str, stream: str, n: int, first: int = 0) -> None:
    async with client.stream(model, stream) as opened:
        for at in range(first, first + n):
            await opened.step([float(np.sin(at / 5))], time=1_700_000_000.0 + at)


@contextlib.asynccontextmanager
async def a_house(folder: Path) -> AsyncIterator[House]:
    made = House(folder)
    async with made.child:
        async with made.client() as client:
            await client.create_model("flow", channels=["x"], hidden=4)
            await ticks(client, "flow", "pump", 40)
        yield made
    log = (folder / "log").read_text()
    assert "Traceback" not in log, log[-4000:]
    everything = log + made.audit.read_text()
    assert not [e.token for e in ENTRIES if f" {e.token}" in everything or f"={e.token}" in everything]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with a_house(tmp_path_factory.mktemp("house")) as made:
        yield made


async def wrong_reads(house: House) -> list[str]:
    """Return the entries of the matrix of routes that are wrong."""
    wrong = []
    for path, needed in READS.items():
        expected: dict[str | None, int] = dict.fromkeys(UNKNOWN, 401)
        for token, rank in RANKS.items():
            allowed = rank == 0 if needed is None else rank >= needed
            expected[token] = 200 if allowed else 403
        expected["b-admin"] = 200 if path in NAMES_NONE and needed is not None else 403 if needed is None else 404
        expected["root"] = 200 if path in NAMES_NONE else 404
        for caller, status in expected.items():
            answer = await house.ask(path, caller)
            if answer.status != status:
                wrong.append(f"{path} with {caller}: {answer.status} {answer.body[:300]!r}")
    return wrong


async def wrong_acts(house: House) -> list[str]:
    """Return the entries of the matrix of acts that are wrong."""
    wrong = []
    for path, body in ACTS.items():
        expected: dict[str | None, int] = dict.fromkeys(UNKNOWN, 401)
        expected |= {token: 200 if rank == 3 else 403 for token, rank in RANKS.items()}
        expected |= {"b-admin": 404, "root": 404}
        for token, status in expected.items():
            answer = await house.act(path, token, body)
            if answer.status != status:
                wrong.append(f"{path} with {token}: {answer.status} {answer.body[:300]!r}")
    return wrong


async def foreign_requests(house: House) -> list[str]:
    """Return the requests of other sites' pages that are answered."""
    found = []
    for headers in CROSS_SITE:
        sent = {"content_type": "application/json", **headers}
        answer = await house.ask(f"{FLOW}/resume", method="POST", body=b"{}", **sent)
        if answer.status != 403:
            found.append(f"{headers}: {answer.status}")
    return found


async def test_every_route_admits_the_roles_it_should_and_no_other(house):
    assert await wrong_reads(house) == []


async def test_every_act_needs_its_role_and_no_less(house):
    assert await wrong_acts(house) == []


NO_ROLES_OVER_HTTP = """
import service.edge.guard.security as security, service.edge.api.access as access
access.check_role = access.check_sees_all = lambda *of: None
"""
ANYBODY_ACTS = """
import service.edge.api.access as access
access.Entry.check_act = access.Entry.check_site = lambda *of: None
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("mutant", "search"),
    [
        (OPEN_DOOR, wrong_reads), (OPEN_DOOR, wrong_acts), (ONE_TENANT, wrong_reads), (ONE_TENANT, wrong_acts),
        (NO_ROLES_OVER_HTTP, wrong_reads), (NO_ROLES_OVER_HTTP, wrong_acts), (ANYBODY_ACTS, foreign_requests),
    ],
)  # fmt: skip
async def test_a_server_that_admits_others_would_be_detected(mutant, search, monkeypatch, tmp_path):
    mutate(monkeypatch, tmp_path, mutant)
    async with a_house(tmp_path) as house:
        assert await search(house) != []


async def test_a_refusal_names_field_value_and_remedy_as_grpc_does(house):
    unknown = await house.ask(FLOW, None)
    assert unknown.headers["www-authenticate"] == "Bearer"
    assert unknown.error["reason"] == "UNAUTHENTICATED"
    low = await house.act(f"{FLOW}/pause", "a-train")
    assert (low.status, low.error["reason"], low.error["field"]) == (403, "FORBIDDEN", "role")
    absent = await house.ask("/api/v1/models/wolf", "a-predict")
    assert absent.error == {
        "reason": "NOT_FOUND", "field": "model", "value": "wolf",
        "remedy": "no such model; create it first, or list the models",
    }  # fmt: skip


async def test_anothers_model_looks_exactly_like_a_missing_one(house):
    for path in READS.keys() - NAMES_NONE:
        theirs, absent = await house.ask(path, "b-admin"), await house.ask(path.replace("flow", "wolf"), "b-admin")
        assert theirs.status == absent.status == 404
        assert theirs.body == absent.body.replace(b"wolf", b"flow"), path
    for path, body in ACTS.items():
        theirs, absent = [await house.act(p, "b-admin", body) for p in (path, path.replace("flow", "wolf"))]
        assert theirs.body == absent.body.replace(b"wolf", b"flow"), path
    for token in ("b-admin", "root"):
        assert (await house.ask("/api/v1/models", token)).json == {"models": [], "next": ""}
    async with EventStream(house.child.http, "model=flow", "b-admin") as stream:
        assert stream.status == 404


async def test_the_root_says_who_asks_and_what_they_may(house):
    said = {token: (await house.ask("/api/v1", token)).json for token in ("scraper", "a-predict", "a-admin", "root")}

    assert {token: (one["tenant"], one["role"], one["sees_all"], one["may"]) for token, one in said.items()} == {
        "scraper": ("a", "metrics", True, {"act": False}),
        "a-predict": ("a", "predict", False, {"act": False}),
        "a-admin": ("a", "admin", False, {"act": True}),
        "root": ("default", "admin", True, {"act": True}),
    }
    assert {(one["api"], one["open"], one["node"]) for one in said.values()} == {(1, False, "")}
    assert all(one["started"] <= one["now"] for one in said.values())


# ---- acts


async def test_acts_are_journaled_audited_and_seen_by_grpc(house):
    async with house.client() as client, channel_to(house.child.grpc) as channel:
        await client.create_model("acted", channels=["x"], hidden=4)
        assert (await house.ask("/api/v1/models/acted")).json["loss"] is None, "not a number, which is no JSON"
        paused = (await house.act("/api/v1/models/acted/pause")).json
        assert (paused["name"], paused["paused"]) == ("acted", True)
        assert (await client.get_model("acted")).paused
        assert (await house.ask("/api/v1/models/acted")).json["paused"] is True
        assert (await house.act("/api/v1/models/acted/resume", body={})).json["paused"] is False
        assert (await house.ask("/api/v1/models/acted")).json["paused"] is False, "a kept reply of before is forgotten"
        assert (await house.act("/api/v1/models/acted/promote", body={"version": 1})).json["champion"] == 1
        assert (await house.act("/api/v1/models/acted/rollback", body={"version": 0})).json["champion"] == 1

        watch = ModelsStub(channel).Watch(
            models_pb2.WatchRequest(name="acted", recent=100, recent_only=True), metadata=bearer("a-predict")
        )
        kinds = [event.kind async for event in watch]
    event = models_pb2.ModelEvent
    assert kinds[:3] == [event.CREATED, event.PAUSED, event.RESUMED]
    acts = [line for line in house.lines() if line.get("model") == "acted" and "by" not in line][1:]
    assert [(line["action"], line["outcome"], line.get("version")) for line in acts] == [
        ("pause", "ok", None), ("resume", "ok", None), ("promote", "ok", 1), ("rollback", "ok", None),
    ]  # fmt: skip
    assert {line["peer"].rpartition(":")[0] for line in acts} == {"127.0.0.1"}
    assert {(line["tenant"], line["role"]) for line in acts} == {("a", "admin")}


async def test_refused_tokens_and_acts_that_fail_are_counted_and_audited(tmp_path):
    async with a_house(tmp_path) as house:
        assert (await house.ask(f"{FLOW}/events", "guessed")).status == 401
        assert (await house.act(f"{FLOW}/pause", "a-predict")).status == 403
        async with EventStream(house.child.http, "model=flow", "guessed") as stream:
            assert stream.status == 401
        assert (await house.act("/api/v1/models/nothing/pause")).status == 404
        assert (await house.act(f"{FLOW}/promote", body={"version": 999_999})).status == 404

        scraped = await scrape(house.child.http, "root")
        denied = {r: scraped.total("freshet_calls_denied_total", reason=r) for r in ("unauthenticated", "forbidden")}
        assert denied == {"unauthenticated": 2, "forbidden": 1}
        refused = [(line["outcome"], line["asked"]) for line in house.lines() if line["action"] == "token refused"]
        assert refused == [
            ("unauthenticated", f"{FLOW}/events"), ("forbidden", f"{FLOW}/pause"), ("unauthenticated", "/api/v1/watch"),
        ]  # fmt: skip
        failed = [line for line in house.lines() if line["outcome"] == "not_found"]
        assert [(line["action"], line["model"], line["token"]) for line in failed] == [
            ("pause", "nothing", "boss"), ("promote", "flow", "boss"),
        ]  # fmt: skip


async def test_acts_survive_a_restart(tmp_path):
    async with a_house(tmp_path) as house:
        assert (await house.act(f"{FLOW}/pause")).status == 200
        house.child.kill()
        await house.child.wait()
        await house.child.start()
        assert (await house.ask(FLOW)).json["paused"] is True


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"), (b"[]", "body"), (b"7", "body"), (b"\xff", "body"), (b'{"version": "1"}', "version"),
        (b'{"version": true}', "version"), (b'{"version": -1}', "version"), (b'{"version": 1.5}', "version"),
        (b'{"version": 1e400}', "version"), (b'{"version": 99999999999999999999}', "version"),
        (b'{"other": 1}', "other"), (b"[" * 60_000, "body"), (b" " * (MAX_BODY_BYTES + 1), "body"),
    ],
)  # fmt: skip
async def test_a_body_that_is_wrong_is_refused_by_field(house, body, field):
    answer = await house.ask(f"{FLOW}/promote", method="POST", body=body, content_type="application/json")

    assert (answer.status, answer.error["field"]) == (400, field)
    assert len(answer.body) < 1000


# ---- sites and hosts


async def test_a_page_of_another_site_cannot_act(house):
    assert await foreign_requests(house) == []
    for headers in CROSS_SITE:
        sent = {"content_type": "application/json", **headers}
        answer = await house.ask(f"{FLOW}/pause", method="POST", body=b"{}", **sent)
        assert answer.error["field"] == next(iter(headers)).replace("_", "-")
    assert (await house.ask(FLOW)).json["paused"] is False


async def test_the_servers_own_page_can_act(house):
    own = f"http://{house.child.http}"
    for kind in ("application/json", "Application/JSON; charset=utf-8"):
        answer = await house.act(f"{FLOW}/resume", kind=kind, origin=own, sec_fetch_site="same-origin")
        assert answer.status == 200


async def test_a_page_of_another_site_cannot_read_or_watch_and_gets_no_leave_to(house):
    for path in ("/api/v1", "/api/v1/models", "/api/v1/watch?model=flow"):
        answer = await house.ask(path, sec_fetch_site="cross-site", origin="http://attacker.example")
        assert (answer.status, answer.error["field"]) == (403, "sec-fetch-site")
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_an_open_server_answers_to_its_addresses_and_no_foreign_name(server):
    port = server.http.rpartition(":")[2]
    for host in (
        "attacker.example",
        f"attacker.example:{port}",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example",
        "",
    ):
        for path in ("/", "/api/v1", "/page/js/main.js"):
            answer = await ask(server.http, path, host=host)
            assert (answer.status, answer.error["reason"]) == (421, "MISDIRECTED"), host
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", "[::1]:80", "10.1.2.3:8301", "LOCALHOST."):
        answer = await ask(server.http, "/api/v1", host=host)
        assert (answer.status, answer.json["open"], answer.json["role"]) == (200, True, "admin"), host


async def test_with_tokens_any_host_is_answered_as_behind_a_proxy(house):
    assert (await house.ask("/api/v1", host="freshet.example")).status == 200


# ---- malformed


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{FLOW}/streams/pump/ticks?last=100000000000000000000", 400),
        (f"{FLOW}/streams/pump/ticks?last=0", 400),
        (f"{FLOW}/streams/pump/ticks?step=99", 400),
        (f"{FLOW}/streams/pump/ticks?step=-1", 400),
        (f"{FLOW}/streams/pump/ticks?target=nothing", 400),
        (f"{FLOW}/streams/pump/ticks?unknown=1", 400),
        (f"{FLOW}/streams/pump/ticks?last=1&last=2", 400),
        (f"{FLOW}/streams/pump/ticks/0", 400),
        (f"{FLOW}/streams/pump/ticks/x", 400),
        (f"{FLOW}/streams/pump/ticks/999999", 404),
        (f"{FLOW}/streams/nobody/ticks", 404),
        (f"{FLOW}/streams/{'n' * 10_000}/ticks", 404),
        (f"{FLOW}/streams/%ff/ticks", 400),
        (f"{FLOW}/streams/a%2F..%2Fb/ticks", 404),
        (f"{FLOW}/streams?limit=1001", 400),
        (f"{FLOW}/streams?match=%ff", 400),
        (f"{FLOW}/errors?worst=1e9", 400),
        (f"{FLOW}/events?last=-5", 400),
        ("/api/v1/models?limit=0", 400),
        ("/api/v1/models/%00", 404),
        ("/api/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("/api/v1/models/../flow", 404),
        ("/api/v1/nothing", 404),
        ("/api/v2/models", 404),
        ("/api", 404),
        ("/api/v1/models/flow/delete", 404),
        ("/api/v1/watch", 400),
        ("/api/v1/watch?model=flow&step=0", 400),
        ("/api/v1/watch?model=flow&show=all", 400),
        ("/api/v1/watch?model=flow&ghost=x", 400),
        ("/api/v1/watch?model=flow&ghost=999999", 404),
        ("/api/v1/watch?model=flow&stream=nobody", 404),
        ("/api/v1/watch?model=flow&target=nothing", 400),
        ("/api/v1/watch?model=flow&" + "&".join(f"stream={n}" for n in range(9)), 400),
        ("/api/v1/watch?model=nothing", 404),
        ("/page/../__init__.py", 404),
        ("/page/..%2f__init__.py", 404),
        ("/page/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/page//etc/passwd", 404),
        ("/page/", 404),
        ("/page", 404),
        ("/nothing", 404),
        ("//attacker.example/", 404),
    ],
)
async def test_a_question_that_is_wrong_is_refused_and_the_server_goes_on(house, path, status):
    answer = await house.ask(path)

    assert answer.status == status, answer.body
    assert len(answer.body) < 1000
    assert answer.headers["x-content-type-options"] == "nosniff"
    if path.startswith("/api/v1"):
        assert answer.error["remedy"]


async def test_a_line_of_a_hundred_thousand_characters_is_refused_before_it_is_parsed(house):
    for path in (f"/api/v1/models/{'n' * 100_000}", f"/api/v1/models?match={'n' * 100_000}"):
        assert (await house.ask(path)).status == 400
    assert (await house.ask(FLOW)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_a_path_takes_its_methods_only(house, method):
    for path in ("/", "/page/js/main.js", FLOW, "/api/v1", "/api/v1/watch?model=flow"):
        answer = await house.ask(path, method=method, content_type="application/json")
        assert (answer.status, answer.headers["allow"].split(", ")[0]) == (405, "GET"), path
    if method != "POST":
        answer = await house.ask(f"{FLOW}/pause", method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


# ---- the page


async def test_every_reply_has_a_policy_and_a_browser_gets_the_page(house):
    html = await house.ask("/", None, accept="text/html")
    text = await house.ask("/", None, accept="*/*")

    assert "/metrics" in text.body.decode()
    assert "/api/v1" in text.body.decode()
    for answer in (
        html,
        text,
        await house.ask("/page/nothing", None),
        await house.ask("/api/v1"),
        await house.ask(FLOW, None),
    ):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert (await house.ask("/api/v1")).headers["cache-control"] == "no-store"
    for linked in re.findall(r'(?:src|href)="/?(page/[^"]+)"', html.body.decode()):
        file = await house.ask(f"/{linked}", None, accept_encoding="gzip")
        assert file.status == 200, linked
        assert "script-src 'self'" in file.headers["content-security-policy"]
        assert "immutable" in file.headers["cache-control"]
        again = await house.ask(f"/{linked}", None, accept_encoding="gzip", if_none_match=file.headers["etag"])
        assert (again.status, again.body) == (304, b"")


# ---- event streams


async def test_a_watch_begins_with_what_is_there_and_goes_on_with_what_moves(house):
    async with house.client() as client, EventStream(house.child.http, "model=flow&stream=pump", "a-predict") as stream:
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
        hello = await stream.until("hello")
        assert (hello["model"]["name"], hello["streams"]) == ("flow", ["pump"])
        first = await stream.until("block")
        assert (first["restart"], first["stream"]) == (True, "pump")
        last = first["seq"][-1]
        await ticks(client, "flow", "pump", 3, first=last)
        more = await stream.until("block")
        while more["seq"][-1] < last + 3:
            more = await stream.until("block")
        assert more["restart"] is False


async def test_a_token_that_is_revoked_ends_its_event_stream(house):
    async with EventStream(house.child.http, "model=flow", "a-predict") as stream:
        await stream.until("hello")
        replace(house.access, written(*(entry for entry in ENTRIES if entry.token != "a-predict")))
        try:
            assert "no longer valid" in (await stream.until("bye"))["reason"]
            assert await stream.next() is None
        finally:
            replace(house.access, written(*ENTRIES))
    async with asyncio.timeout(DEADLINE_S):
        while (await house.ask(FLOW, "a-predict")).status != 200:
            pass
    assert [line for line in house.lines() if line["action"] == "call ended" and line["outcome"] == "revoked"]


async def test_a_viewer_beyond_the_limit_is_refused_until_another_leaves(house):
    async with contextlib.AsyncExitStack() as opened:
        for _ in range(MAX_VIEWERS):
            stream = await opened.enter_async_context(EventStream(house.child.http, "model=flow", "a-predict"))
            assert stream.status == 200
        refused = await house.ask("/api/v1/watch?model=flow")
        assert (refused.status, refused.error["reason"]) == (429, "EXHAUSTED")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await house.ask(FLOW)).status == 200, "only event streams are counted"
        assert (await ask(house.child.http, "/healthz")).status == 200
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with EventStream(house.child.http, "model=flow", "a-predict") as stream:
                if stream.status == 200:
                    break


async def test_viewers_stay_while_others_crowd_the_side_server(house):
    async with EventStream(house.child.http, "model=flow", "a-predict") as stream:
        await stream.until("hello")
        async with crowd_at(house.child.http, b"GET /"):
            async with house.client() as client:
                await ticks(client, "flow", "pump", 3, first=(await stream.until("block"))["seq"][-1])
            assert (await stream.until("block"))["seq"]


async def test_an_event_stream_counts_against_the_quota_of_calls(tmp_path):
    house = House(tmp_path)
    house.access.write_text(written(*ENTRIES, quotas="[tenant.b]\ncalls = 1\n"))
    async with house.child:
        async with house.client("b-admin") as client:
            await client.create_model("flow", channels=["x"], hidden=4)
            await ticks(client, "flow", "pump", 3)
        async with EventStream(house.child.http, "model=flow", "b-admin") as stream:
            await stream.until("hello")
            for refused in (
                await house.ask("/api/v1/watch?model=flow", "b-admin"),
                await house.act(f"{FLOW}/pause", "b-admin"),
            ):
                assert (refused.status, refused.error["field"]) == (429, "call")
            assert (await house.ask(FLOW, "b-admin")).status == 200


async def test_a_drain_says_goodbye_to_viewers_and_a_new_watch_works_after_the_restart(tmp_path):
    async with a_house(tmp_path) as house:
        async with EventStream(house.child.http, "model=flow", "a-predict") as stream:
            await stream.until("hello")
            stopping = asyncio.create_task(house.child.stop())
            assert (await stream.until("bye"))["reason"]
            assert await stream.next() is None
            assert await stopping == 0
        await house.child.start()
        async with EventStream(house.child.http, "model=flow&stream=pump", "a-predict") as stream:
            assert (await stream.until("hello"))["model"]["name"] == "flow"
            assert (await stream.until("block"))["seq"][-1] == 40


async def test_a_viewer_that_stops_reading_is_cut_and_the_others_go_on(tmp_path):
    house = House(tmp_path)
    house.child = ServerChild(
        tmp_path / "data", tmp_path / "log",
        settings=QUICK | {"access": house.access, "audit": house.audit, "write_s": 0.5},
    )  # fmt: skip
    streams = [f"pump-{n}" for n in range(8)]
    values = np.random.default_rng(0).random((len(streams) * TICKS_AT_ONCE, 1))
    everything = "&".join(["model=flow", *(f"stream={stream}" for stream in streams)])
    async with house.child, house.client() as client, asyncio.timeout(DEADLINE_S):
        await client.create_model("flow", channels=["x"], hidden=4, learn=False)
        async with client.mux("flow") as mux:  # a stream must be known before it is watched
            await mux.step(streams, np.zeros((len(streams), 1)))
        deaf = EventStream(house.child.http, everything, "a-predict", limit=1024)
        watching = EventStream(house.child.http, "model=flow", "a-predict")
        async with client.mux("flow") as mux, watching as other, deaf:
            deaf.deafen()
            before = await house.memory()
            while not (await scrape(house.child.http, "root")).total("freshet_calls_cut_total"):
                await mux.step(streams * TICKS_AT_ONCE, values)
                assert await other.next() is not None
            assert await house.memory() < before + (64 << 20)
            await mux.step(streams, np.ones((len(streams), 1)))
            assert await other.next() is not None


async def test_a_reply_that_would_be_too_large_is_refused_and_a_list_is_shortened(tmp_path):
    house = House(tmp_path)
    async with house.child, house.client() as client:
        names = [f"{n} {'c' * 240}" for n in range(4096)]
        await client.create_model("wide", channels=names, targets=names[:1], hidden=4)
        await client.create_model("xsmall", channels=["x"], hidden=4)
        refused = await house.ask("/api/v1/models/wide")
        assert (refused.status, refused.error["field"]) == (400, "reply")
        listed = (await house.ask("/api/v1/models")).json["models"]
        assert [model["name"] for model in listed] == ["wide", "xsmall"]
        assert listed[0]["channels"] == names[: len(listed[0]["channels"])]
