"""Rules of zones by name, from the system's database or the package's."""

from __future__ import annotations

import re
import zoneinfo
from pathlib import Path

import pytest

from model.calendar import zone
from model.spec import ModelSpec, SpecError
from service.common import zones

RULES = {
    "Europe/Berlin": "CET-1CEST,M3.5.0,M10.5.0/3",
    "America/New_York": "EST5EDT,M3.2.0,M11.1.0",
    "Europe/Dublin": "IST-1GMT0,M10.5.0,M3.5.0/1",
    "Asia/Kolkata": "IST-5:30",
    "UTC": "UTC0",
}


@pytest.fixture(autouse=True)
def forgotten() -> None:
    zones._by_name.cache_clear()
    zones._names.cache_clear()


@pytest.mark.parametrize("database", ["of the system", "of the package"])
def test_the_rule_of_a_name_is_that_at_the_end_of_its_file(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    if database == "of the package":
        pytest.importorskip("tzdata")
        monkeypatch.setattr(zoneinfo, "TZPATH", ())
    elif not zoneinfo.TZPATH:
        pytest.skip("no database of the system")
    assert {name: zones.rule_of(name) for name in RULES} == RULES


def test_a_rule_stays_as_it_is() -> None:
    for rule in RULES.values():
        assert zones.rule_of(rule) == rule


def test_every_zone_of_this_machine_has_a_rule() -> None:
    for name in zoneinfo.available_timezones():
        zone.parse(zones.rule_of(name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Europe/Brelin", "did you mean Europe/Berlin"),
        ("Europe", "no zone of that name"),  # a folder
        ("tzdata.zi", "POSIX rule"),  # a file of the database that is no zone
        ("tzdata_zi", "no zone of that name"),
        ("leapseconds", "no zone of that name"),
        ("../../../etc/passwd", "POSIX rule"),
        ("/etc/passwd", "POSIX rule"),
        ("Europe/../Europe/Berlin", "POSIX rule"),
        ("Europe//Berlin", "POSIX rule"),
        ("a" * 10_000, "POSIX rule"),
        ("CET-1CEST,M13.5.0,M10.5.0", "M13.5.0 is no month"),
        ("", ""),
    ],
)
def test_what_names_no_zone_is_refused_with_the_remedy(name: str, words: str) -> None:
    keys = {"channels": ["a"], "interval": 60.0, "zone": name}
    if not name:
        assert zones.resolved(keys) == keys
        return
    with pytest.raises(SpecError, match=words) as caught:
        zones.resolved(keys)
    assert (caught.value.field, caught.value.value) == ("zone", name)


@pytest.mark.parametrize("name", ["../outside", "in/../../outside", "in/../there"])
def test_a_name_never_leads_out_of_the_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "zoneinfo"
    (folder / "in").mkdir(parents=True)
    for path in (tmp_path / "outside", folder / "there"):
        path.write_bytes(b"TZif2" + bytes(40) + b"\nCET-1\n")
    monkeypatch.setattr(zoneinfo, "TZPATH", (str(folder),))
    assert zones.rule_of("there") == "CET-1"

    with pytest.raises(SpecError, match="give the name of a zone"):
        zones.rule_of(name)
    monkeypatch.setattr(zones, "_NAME", re.compile(".*"))  # the check is what refuses it
    assert zones.rule_of(name) == "CET-1"


def test_without_any_database_the_remedy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "_file", lambda name: None)
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    with pytest.raises(SpecError, match="install the package tzdata"):
        zones.rule_of("Europe/Berlin")


def test_a_file_without_a_rule_has_no_footer() -> None:
    assert zones.footer(b"TZif\0" + bytes(40)) == ""  # version 1
    assert zones.footer(b"TZif2" + bytes(40) + b"\n\n") == ""
    assert zones.footer(b"TZif2" + bytes(40) + b"\nCET-1\n") == "CET-1"
    assert zones.footer(b"other\nCET-1\n") == ""


def test_values_of_another_type_are_left_to_the_spec() -> None:
    with pytest.raises(SpecError, match="give a text"):
        ModelSpec.from_mapping(zones.resolved({"channels": ["a"], "zone": 3}))
