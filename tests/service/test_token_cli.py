"""`freshet token`: what it makes, the server takes."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from service.access.grants import Quota, Role, parse
from service.cli.token import UNITS, limits


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", "token", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_a_new_token_opens_what_its_entry_says():
    made = run("new", "--tenant", "acme", "--role", "train", "--name", "gateway 1", "--days", 30)
    secret = made.stdout.strip()
    access = parse(made.stderr[made.stderr.index("[[token]]") :])

    grant = access.admit(f"Bearer {secret}", time.time())

    assert (grant.tenant, grant.role, grant.name) == ("acme", Role.TRAIN, "gateway 1")
    assert 29 * 86400 < grant.expires - time.time() <= 30 * 86400
    assert len(secret) > 40
    assert secret not in made.stderr


@pytest.mark.parametrize("before", ["", "# ours\n\n[tenant.acme]\nmodels = 3\n"])
def test_tokens_are_added_to_a_file_that_keeps_what_it_had(tmp_path: Path, before: str):
    path = tmp_path / "access.toml"
    if before:
        path.write_text(before)
        path.chmod(0o640)
    made = [run("new", "--tenant", "acme", "--role", role, "--append", path) for role in ("predict", "admin")]
    secrets = [one.stdout.strip() for one in made]

    access = parse(path.read_text())

    assert [access.admit(f"Bearer {secret}", 0.0).role for secret in secrets] == [Role.PREDICT, Role.ADMIN]
    assert access.quotas == parse(before).quotas
    assert path.stat().st_mode & 0o777 == (0o640 if before else 0o600)
    assert ("# ours" in path.read_text()) is bool(before)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--tenant", "Acme", "--role", "train"), "Acme"),
        (("--tenant", 'a"\nrole = "admin', "--role", "train"), "tenant"),
        (("--tenant", "acme", "--role", "root"), "root"),
        (("--tenant", "acme", "--role", "train", "--name", "x" * 65), "name"),
    ],
)
def test_an_entry_that_the_server_would_not_take_is_refused(words, named):
    made = run("new", *words)

    assert made.returncode == 2
    assert named in made.stderr
    assert not made.stdout


def test_a_file_that_is_no_good_is_left_as_it_is(tmp_path: Path):
    path = tmp_path / "access.toml"
    path.write_text("[[token]]\n")

    made = run("new", "--tenant", "acme", "--role", "train", "--append", path)

    assert made.returncode == 2
    assert path.read_text() == "[[token]]\n"


def test_of_a_quota_what_is_limited_is_told_in_words():
    assert limits(Quota()) == "no limits"
    assert limits(Quota(models=10, ticks_per_s=50_000.0)) == "10 models, 50,000 ticks/s"
    assert limits(Quota(in_flight_bytes=2**40, calls=0)) == "1,099,511,627,776 bytes in flight, 0 calls"
    assert set(UNITS) == {field.name for field in fields(Quota)}


def test_a_list_tells_who_has_a_token_and_no_secret(tmp_path: Path):
    path = tmp_path / "access.toml"
    secret = run("new", "--tenant", "acme", "--role", "train", "--name", "gw", "--append", path).stdout.strip()
    path.write_text(path.read_text() + "\n[tenant.acme]\nmodels = 3\n")

    told = run("list", path)

    assert told.returncode == 0
    assert all(word in told.stdout for word in ("acme", "train", "gw", "never", "\nacme: 3 models\n"))
    assert secret not in told.stdout
    assert run("list", tmp_path / "none.toml").returncode == 2
    path.write_text("tokens = 1")
    assert "tokens" in run("list", path).stderr
