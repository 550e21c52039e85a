"""The access file: its entries, what a token permits, and changes while the server runs."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.access.credentials import access_file
from service.access.grants import (
    DEFAULT_TENANT,
    EVERYBODY,
    OPEN,
    Access,
    AccessError,
    Grant,
    Quota,
    Role,
    parse,
    token_digest,
)
from service.access.tenants import Tenants
from service.access.watched import Watched
from service.common.documents import MAX_DOCUMENT_BYTES
from service.common.errors import Unauthenticated
from service.observe.metrics import Metrics
from tests.journeys.raw import DEADLINE_S
from tests.service.test_documents import QUICK_TOML

NOW = 1_800_000_000.0  # 2027-01-15
ENTRY = '[[token]]\nsha256 = "{digest}"\ntenant = "{tenant}"\nrole = "{role}"\n'


def entry(token: str, tenant: str = "acme", role: str = "train", more: str = "") -> str:
    return ENTRY.format(digest=token_digest(token), tenant=tenant, role=role) + more


def test_a_token_admits_with_the_tenant_and_role_of_its_entry():
    access = parse(entry("one") + entry("two", "other", "admin", 'name = "gateway"\n'))

    assert access.admit("Bearer one", NOW) == Grant("acme", Role.TRAIN, token_digest("one"))
    assert access.admit("Bearer two", NOW) == Grant("other", Role.ADMIN, token_digest("two"), "gateway")


@pytest.mark.parametrize(
    "sent",
    [None, "", "one", "bearer one", "Bearer ", "Bearer  one", "Bearer one ", "Bearer wrong", "Bearer " + "x" * 10**6],
    ids=range(9),
)
def test_without_a_known_token_a_call_is_refused_and_no_error_repeats_the_token(sent):
    with pytest.raises(Unauthenticated) as caught:
        parse(entry("one")).admit(sent, NOW)

    assert caught.value.field == "authorization"
    assert caught.value.value in ("(none)", "another scheme", "a token")


def test_a_token_is_valid_until_it_expires():
    access = parse(entry("one", more="expires = 2027-01-15T08:00:00Z\n"))
    [grant] = access.grants.values()

    assert grant.expires == NOW
    assert access.admit("Bearer one", NOW - 1e-3) == grant
    assert access.still_valid(grant, NOW - 1e-3)
    assert not access.still_valid(grant, NOW)
    with pytest.raises(Unauthenticated, match="expired"):
        access.admit("Bearer one", NOW)


def test_without_an_access_file_every_caller_is_admin_of_the_default_tenant():
    assert OPEN.admit(None, NOW) == OPEN.admit("Bearer whatever", NOW) == EVERYBODY
    assert OPEN.still_valid(EVERYBODY, NOW)
    assert OPEN.quota(DEFAULT_TENANT) == Quota()


def test_a_grant_is_shown_without_its_digest():
    [grant] = parse(entry("secret")).grants.values()
    assert grant.digest
    assert grant.digest not in f"{grant!r} {grant}"


def test_an_empty_access_file_admits_no_caller():
    access = parse("")

    assert not access.open
    assert not access.still_valid(EVERYBODY, NOW)
    with pytest.raises(Unauthenticated):
        access.admit("Bearer x", NOW)


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        ("", False),
        (entry("one", "other"), False),
        (entry("one", role="predict"), False),
        (entry("two"), False),
        (entry("one", more="expires = 2020-01-01T00:00:00Z\n"), False),
        (entry("one"), True),
        (entry("one", role="admin"), True),
        (entry("one", more='name = "renamed"\n'), True),
        (entry("one", more="expires = 2040-01-01T00:00:00Z\n"), True),
    ],
)
def test_an_open_call_continues_while_its_token_still_grants_as_much(change, stays):
    grant = parse(entry("one")).admit("Bearer one", NOW)

    assert parse(change).still_valid(grant, NOW) is stays


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[token", "TOML"),
        ("tokens = 1", "tokens"),
        ("token = 1", "token"),
        ("[tenant]\nacme = 3", "tenant.acme"),
        ('[[token]]\nsha256 = "abc"', "sha256"),
        (ENTRY.format(digest="A" * 64, tenant="acme", role="train"), "sha256"),
        (entry("one", "Acme"), "tenant"),
        (entry("one", ""), "tenant"),
        (entry("one", role="root"), "root"),
        (entry("one", more="name = 3\n"), "name"),
        (entry("one", more='name = "a\\nb"\n'), "name"),
        (entry("one", more="expires = 2027-01-01T00:00:00\n"), "expires"),
        (entry("one", more='expires = "soon"\n'), "expires"),
        (entry("one", more='secret = "one"\n'), "secret"),
        (entry("one") + entry("one", "other"), "twice"),
        ("[tenant.acme]\nstreams = -1", "tenant.acme.streams"),
        ("[tenant.acme]\nstreams = 1.5", "tenant.acme.streams"),
        ("[tenant.acme]\nmodels = true", "tenant.acme.models"),
        ("[tenant.acme]\nticks_per_s = 0", "tenant.acme.ticks_per_s"),
        ("[tenant.acme]\nticks_per_s = nan", "tenant.acme.ticks_per_s"),
        ("[tenant.acme]\npumps = 1", "tenant.acme.pumps"),
        ("[tenant.Acme]\nmodels = 1", "Acme"),
    ],
)
def test_an_access_file_that_is_not_understood_is_refused_by_name(text, named):
    with pytest.raises(AccessError, match=named):
        parse(text)


def test_quotas_belong_to_a_tenant_and_are_unlimited_where_not_named():
    access = parse("[tenant.acme]\nmodels = 2\nticks_per_s = 1.5\n")

    assert access.quota("acme") == Quota(models=2, ticks_per_s=1.5)
    assert access.quota("other") == Quota()
    assert access.quota("acme").streams > 2**60
    assert math.isinf(access.quota("other").ticks_per_s)


class Files:
    """An access file and the rules in force after each change."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.metrics = path, Metrics(CollectorRegistry())
        path.write_text(text)
        self.file = access_file(path, self.metrics.access)

    def after(self, text: str | bytes) -> Access:
        """Replace the file as editors and orchestrators do; return the rules in force then."""
        fresh = self.path.with_name("fresh")
        fresh.write_bytes(text if isinstance(text, bytes) else text.encode())
        fresh.replace(self.path)
        self.file.look()
        return self.file.current

    @property
    def invalid(self) -> float | None:
        return self.metrics.registry.get_sample_value("freshet_file_invalid", {"file": "access"})


def test_a_changed_file_is_in_force_at_the_next_look(tmp_path):
    files = Files(tmp_path / "access.toml", entry("one"))

    assert files.after(entry("two")) == parse(entry("two"))
    assert not files.file.look()


@pytest.mark.parametrize(
    "bad", ["[[token]]", "\xff".encode("latin1"), "#" * (MAX_DOCUMENT_BYTES + 1)], ids=["entry", "bytes", "size"]
)
def test_a_file_that_becomes_invalid_changes_nothing_and_is_logged(tmp_path, bad, capsys):
    files = Files(tmp_path / "access.toml", entry("one"))

    assert files.after(bad) == parse(entry("one"))
    assert files.invalid == 1
    assert "stays in force" in capsys.readouterr().out

    assert files.after(entry("two")) == parse(entry("two"))
    assert files.invalid == 0


def test_a_missing_file_changes_nothing_and_is_logged_once(tmp_path, capsys):
    files = Files(tmp_path / "access.toml", entry("one"))
    files.path.unlink()

    for _ in range(3):
        assert not files.file.look()

    assert files.file.current == parse(entry("one"))
    assert capsys.readouterr().out.count("stays in force") == 1


def test_a_missing_file_that_comes_back_unchanged_is_valid_again(tmp_path):
    files = Files(tmp_path / "access.toml", entry("one"))
    away = files.path.rename(tmp_path / "away")
    files.file.look()
    assert files.invalid == 1

    away.rename(files.path)
    files.file.look()

    assert files.invalid == 0
    assert files.file.current == parse(entry("one"))


@pytest.mark.parametrize("how", ["not there", "a folder"])
def test_a_file_that_cannot_be_read_at_the_start_is_named_with_its_setting(tmp_path, how):
    path = tmp_path / "access.toml"
    if how == "a folder":
        path.mkdir()
    reason = {"not there": "No such file or directory", "a folder": "Is a directory"}[how]

    with pytest.raises(OSError, match=f"^access = {path}: {reason}$"):
        access_file(path, Metrics(CollectorRegistry()).access)


@pytest.mark.parametrize("text", [None, "[[token]]"])
def test_a_server_does_not_start_with_an_invalid_file(tmp_path, text):
    path = tmp_path / "access.toml"
    if text is not None:
        path.write_text(text)

    with pytest.raises((AccessError, OSError), match=str(path)):
        access_file(path, Metrics(CollectorRegistry()).access)


def test_learning_seconds_are_a_quota_and_the_setting_bounds_every_tenant():
    access = parse("[tenant.acme]\nlearn_s_per_s = 0.25\n")
    tenants = Tenants(Metrics(CollectorRegistry()).access, learn_s_per_s=0.5)
    tenants.apply(access)
    acme, other = tenants.of("acme"), tenants.of("other")

    for tenant in (acme, other):
        assert tenant.learning_wait(100.0) == 0
        tenant.learned(100.0, 1.0)
    assert acme.learning_wait(100.0) == pytest.approx(4.0)
    assert other.learning_wait(100.0) == pytest.approx(2.0)
    assert acme.learning_wait(104.0) == 0
    with pytest.raises(AccessError, match="learn_s_per_s"):
        parse("[tenant.acme]\nlearn_s_per_s = 0\n")


@pytest.mark.parametrize("text", ['token = ["fr_secret"]', 'token = "fr_secret"', '[[token]]\nsha256 = "fr_secret"'])
def test_no_error_of_a_file_repeats_a_value_that_may_be_a_token(text):
    with pytest.raises(AccessError) as caught:
        parse(text)

    assert "fr_secret" not in str(caught.value)


@pytest.mark.parametrize("hostile", QUICK_TOML.values(), ids=QUICK_TOML)
def test_a_file_crafted_to_break_its_parser_changes_nothing_and_is_logged(tmp_path, hostile, capsys):
    files = Files(tmp_path / "access.toml", entry("one"))

    assert files.after(hostile) == parse(entry("one"))
    assert files.invalid == 1
    assert len(capsys.readouterr().out) < 1000

    assert files.after(entry("two")) == parse(entry("two"))


@pytest.mark.parametrize(
    "text",
    [
        entry("one", more=f'name = "{"x" * 100_000}"\n'),
        entry("one", role="x" * 100_000),
        f"[tenant.{'x' * 100_000}]\nmodels = 1\n",
        f"{'x' * 100_000} = 1\n",
        f"[tenant.acme]\nmodels = [{'1,' * 100_000}]\n",
    ],
)
def test_an_error_of_an_access_file_is_a_sentence(text):
    with pytest.raises(AccessError) as refused:
        parse(text)

    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("error", [RecursionError("deep"), MemoryError(), KeyError("x"), AssertionError()])
def test_any_error_of_a_reader_leaves_the_former_value_in_force(tmp_path, error):
    path, metrics = tmp_path / "file", Metrics(CollectorRegistry())
    path.write_text("one")
    outcomes = iter(["one", error, "two"])

    def read() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    file = Watched("file", {"file": path}, read, metrics.access.file_invalid.labels("file"))
    path.write_text("changed")
    assert not file.look()
    assert file.current == "one"
    assert metrics.registry.get_sample_value("freshet_file_invalid", {"file": "file"}) == 1

    path.write_text("changed again")
    assert file.look()
    assert file.current == "two"


async def test_a_file_that_takes_too_long_changes_nothing_and_is_logged(tmp_path, capsys):
    path, metrics, free = tmp_path / "file", Metrics(CollectorRegistry()), threading.Event()
    path.write_text("one")
    reads = iter(["one", "two"])

    def read() -> str:
        if (content := next(reads)) == "two":
            free.wait(DEADLINE_S)
        return content

    file = Watched("file", {"file": path}, read, metrics.access.file_invalid.labels("file"))
    path.write_text("changed")

    assert not await file.look_aside(0.01)
    assert not await file.look_aside(0.01)
    assert file.current == "one"
    assert capsys.readouterr().out.count("not read within 0.01 s") == 1
    free.set()
    assert await file.look_aside(DEADLINE_S)
    assert file.current == "two"
    assert metrics.registry.get_sample_value("freshet_file_invalid", {"file": "file"}) == 0


def test_a_pipe_in_place_of_the_file_does_not_block(tmp_path):
    files = Files(tmp_path / "access.toml", entry("one"))
    files.path.unlink()
    os.mkfifo(files.path)

    assert not files.file.look()
    assert files.file.current == parse(entry("one"))
    assert files.invalid == 1
