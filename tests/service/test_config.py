"""Settings: the precedence of sources, and the errors of invalid ones."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.common.addresses import is_local, split_address
from service.common.gate import GateSettings
from service.console.panels import OTHERS, PANELS
from service.programs.backtest.through_service import PUBLISH_LABELS
from service.server.config import ConfigError, ServeConfig, fields, load
from tests.service.test_documents import QUICK_TOML


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in fields():
        monkeypatch.delenv(f"FRESHET_{name.upper()}", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "freshet.toml"
    path.write_text("publish_labels = 7\npublish_s = 7.5\nmax_streams = 7\n")
    return path


def test_without_any_source_every_setting_has_its_default():
    config = load({})

    assert config.model_dump() == {name: field.default for name, field in ServeConfig.model_fields.items()}


def test_flags_win_over_variables_and_variables_over_the_file(file, monkeypatch):
    monkeypatch.setenv("FRESHET_PUBLISH_LABELS", "8")
    monkeypatch.setenv("FRESHET_PUBLISH_S", "8.5")

    config = load({"publish_labels": "9"}, file)

    assert (config.publish_labels, config.publish_s, config.max_streams) == (9, 8.5, 7)


def test_one_load_does_not_remember_the_file_of_another(file):
    load({}, file)

    assert load({}).max_streams == ServeConfig.model_fields["max_streams"].default


@pytest.mark.parametrize("name", ["FRESHET_PUBLISH_LABEL", "FRESHET_", "FRESHET_NOPE"])
def test_an_unknown_variable_is_refused_with_the_known_ones(monkeypatch, name):
    monkeypatch.setenv(name, "1")

    with pytest.raises(ConfigError, match=f"^{name}: no such setting") as caught:
        load({})

    assert "FRESHET_PUBLISH_LABELS" in str(caught.value)


def test_an_unknown_key_of_the_file_is_refused_with_the_known_ones(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text("publish_label = 3\n")

    with pytest.raises(ConfigError, match=r"^publish_label = 3: no such setting; .*known are .*publish_labels"):
        load({}, path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file") as caught:
        load({}, tmp_path / "none.toml")

    assert "none.toml" in str(caught.value)


def test_a_file_that_is_not_toml_is_named(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text("publish_s = [\n")

    with pytest.raises(ConfigError, match=r"f\.toml: not TOML"):
        load({}, path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("publish_s", "-1"),
        ("publish_s", "0"),
        ("publish_s", "nan"),
        ("drain_s", "inf"),
        ("publish_labels", "1.5"),
        ("publish_labels", ""),
        ("trainer_nice", "20"),
        ("max_undurable", "257"),
        ("insecure", "perhaps"),
    ],
)
def test_an_invalid_value_is_named_with_the_allowed_ones(monkeypatch, name, value):
    monkeypatch.setenv(f"FRESHET_{name.upper()}", value)

    with pytest.raises(ConfigError, match=f"^{name} = '{value}': input should be ") as caught:
        load({})

    assert "\n" not in str(caught.value)


def test_every_mistake_is_reported_at_once():
    with pytest.raises(ConfigError, match=r"publish_s = .*; .*drain_s = "):
        load({"publish_s": "x", "drain_s": "y"})


@pytest.mark.parametrize("door", ["listen", "http"])
@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "[::]", "example.org"])
def test_an_address_reachable_from_other_machines_is_refused_unless_accepted(door, host):
    with pytest.raises(ConfigError, match=f"^{door} = ") as caught:
        load({door: f"{host}:8300"})

    assert "--insecure" in str(caught.value)
    assert getattr(load({door: f"{host}:8300", "insecure": True}), door) == f"{host}:8300"


TLS = {"tls_cert": "server.pem", "tls_key": "server.key"}


@pytest.mark.parametrize(
    ("door", "guards", "missing"),
    [
        ("listen", {"access": "a.toml"}, "without TLS"),
        ("http", {"access": "a.toml"}, "without TLS"),
        ("listen", TLS, "without a list of who may call"),
        ("http", TLS, "without a list of who may call"),
        ("http", TLS | {"tls_client_ca": "ca.pem"}, "without a list of who may call"),
        ("listen", TLS | {"access": "a.toml"}, None),
        ("listen", TLS | {"tls_client_ca": "ca.pem"}, None),
        ("http", TLS | {"access": "a.toml"}, None),
    ],
)
def test_listening_beyond_this_machine_needs_tls_and_a_list_of_callers(door, guards, missing):
    wish = {door: "0.0.0.0:8300", **guards}

    if missing is None:
        assert getattr(load(wish), door) == "0.0.0.0:8300"
    else:
        with pytest.raises(ConfigError, match=missing) as caught:
            load(wish)
        assert str(caught.value).startswith(door)


@pytest.mark.parametrize(
    ("given", "named"),
    [({"tls_cert": "c"}, "tls_key"), ({"tls_key": "k"}, "tls_cert"), ({"tls_client_ca": "ca"}, "tls_client_ca")],
)
def test_files_of_tls_that_need_others_are_refused_alone(given, named):
    with pytest.raises(ConfigError, match=f"^{named}"):
        load(given)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.0.0.2:80", "localhost:65535", "[::1]:8300"])
def test_a_local_address_is_accepted(address):
    assert load({"listen": address}).listen == address


@pytest.mark.parametrize(
    "address", ["", "8300", ":8300", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "::1:80"]
)
def test_an_invalid_address_is_refused_with_an_example(address):
    with pytest.raises(ConfigError, match=r"^listen = .*HOST:PORT, e\.g\. 127\.0\.0\.1:8300"):
        load({"listen": address})


def test_an_address_is_host_and_port():
    assert split_address("listen", "127.0.0.1:8300") == ("127.0.0.1", 8300)
    assert split_address("listen", "[::1]:8300") == ("::1", 8300)


def test_only_loopback_is_local():
    assert [is_local(h) for h in ("localhost", "127.9.9.9", "::1")] == [True] * 3
    assert [is_local(h) for h in ("0.0.0.0", "::", "10.0.0.1", "nothing")] == [False] * 4


def test_the_gates_settings_are_passed_on_by_name():
    values: dict[str, Any] = {"worse_evidence": 5.0, "anchor_labels": 6, "anchor_scores": 10, "score_every": 7,
                              "cool_down_labels": 8, "max_movement": 9.0}  # fmt: skip

    assert load(values).gate == GateSettings(**values)


def test_a_backtest_lowers_the_publish_labels_of_a_server_but_never_raises_them():
    assert load({}).publish_labels == PUBLISH_LABELS


def test_settings_do_not_change_once_loaded():
    with pytest.raises(ValueError, match="frozen"):
        setattr(load({}), "publish_s", 3.0)  # noqa: B010


@pytest.mark.parametrize(
    ("written", "meant"),
    [("publish_label", "publish_labels"), ("max-streams", "max_streams"), ("Max-Stream", "max_streams"),
     ("tls_crt", "tls_cert"), ("acess", "access"), ("journal_keep_byte", "journal_keep_bytes"), ("xyzzy", "")],
)  # fmt: skip
def test_a_misspelt_key_is_refused_with_a_suggestion(tmp_path, written, meant):
    path = tmp_path / "f.toml"
    path.write_text(f"{written} = 3\n")

    with pytest.raises(ConfigError, match=f"^{written} = 3: no such setting; ") as caught:
        load({}, path)

    assert (f"did you mean {meant}? known are" in str(caught.value)) == bool(meant)
    assert ("did you mean" in str(caught.value)) == bool(meant)


def test_a_misspelt_variable_is_refused_with_a_suggestion(monkeypatch):
    monkeypatch.setenv("FRESHET_MAX_STREAM", "1")

    with pytest.raises(ConfigError, match=r"did you mean FRESHET_MAX_STREAMS\? "):
        load({})


def test_the_help_of_serve_begins_with_the_main_settings_and_has_each_once():
    shown = CliRunner().invoke(app, ["serve", "--help"], terminal_width=120).output

    options = re.findall(r"^  --([a-z0-9-]+)", shown, re.M)
    assert options[:5] == ["config", "data", "listen", "http", "access"]
    assert sorted(options) == sorted([*(name.replace("_", "-") for name in fields()), "config", "with-parent", "help"])
    titles = re.findall(r"^(\S.*):$", shown, re.M)
    assert titles == [*PANELS, OTHERS]
    assert {name for names in PANELS.values() for name in names} <= {*fields(), "config"}


@pytest.mark.parametrize("text", [*QUICK_TOML.values(), "\udcff"], ids=[*QUICK_TOML, "not text"])
def test_a_file_made_to_hurt_its_parser_is_refused(tmp_path, text):
    file = tmp_path / "serve.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(ConfigError, match=r"config = .*: not TOML") as refused:
        load({}, file)
    assert len(str(refused.value)) < 500


def test_a_pipe_or_a_folder_is_refused_as_a_file_of_settings(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match=r"config = "):
            load({}, path)
