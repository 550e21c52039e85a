"""`freshet models …` without a server: files that are read, words that are printed, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from typer.testing import CliRunner

from freshet.v1 import models_pb2, types_pb2
from model.network import Network
from model.spec import CHOICES, ModelSpec, SpecError
from service.cli.main import app
from service.common.documents import toml_value
from service.common.errors import Invalid
from service.common.limits import MAX_WEIGHTS_BYTES
from service.console import files, spec_keys, tables
from service.engine.export import pack_weights
from tests.service.test_documents import HOSTILE_JSON, QUICK_TOML

VERBS = [
    "list", "show", "history", "create", "import", "export", "promote", "rollback", "pause", "resume", "delete",
    "watch", "keys",
]  # fmt: skip


def run(*arguments: str):
    return CliRunner().invoke(app, ["models", *arguments])


def test_every_key_of_a_spec_is_explained_and_no_other():
    assert set(spec_keys.KEYS) == {field.name for field in fields(ModelSpec)}
    assert all(3 < len(meaning) <= tables.CUT for meaning in spec_keys.KEYS.values())


def test_keys_prints_type_default_choices_and_meaning_of_each():
    lines = run("keys").output.splitlines()
    told = {key["name"]: key for key in json.loads(run("keys", "--json").output)}

    assert lines[0].split() == ["name", "type", "default", "choices", "meaning"]
    assert [line.split()[0] for line in lines[1:]] == list(told) == list(spec_keys.KEYS)
    assert {name: key["choices"] for name, key in told.items() if key["choices"]} == {
        name: ", ".join(choices) for name, choices in CHOICES.items()
    }
    assert told["hidden"] | {"meaning": ""} == {
        "name": "hidden", "type": "whole number", "default": "64", "choices": "", "meaning": "",
    }  # fmt: skip
    assert (told["learn"]["default"], told["cell"]["default"], told["freeze"]["default"]) == ("true", '"lstm"', "[]")
    assert (told["channels"]["default"], told["class_weights"]["type"]) == ("", "list of numbers")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_takes(verb):
    answer = run(verb, "--help")

    assert answer.exit_code == 0
    assert "--json" in answer.output
    assert ("--url" in answer.output) == (verb != "keys")


def test_help_starts_neither_numpy_nor_grpc():
    code = (
        "import sys; from typer.testing import CliRunner; from service.cli.main import app\n"
        "assert CliRunner().invoke(app, ['models', '--help']).exit_code == 0\n"
        "assert not {'numpy', 'grpc', 'freshet'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("url", ["nonsense", "127.0.0.1", "127.0.0.1:x", ":1", "http://127.0.0.1:8300/"])
def test_a_url_that_is_no_address_is_refused(url):
    answer = run("list", "--url", url)

    assert answer.exit_code == 2
    assert f"url = {url}: give HOST:PORT" in answer.stderr


def test_a_server_that_is_not_there_is_named_with_what_to_do():
    answer = run("list", "--url", "127.0.0.1:1")

    assert answer.exit_code == 1
    assert "no working server on 127.0.0.1:1" in answer.stderr
    assert "freshet serve" in answer.stderr
    assert "\n" not in answer.stderr.strip()


# ---- a spec's file

SPEC = {"channels": ["a", "b"], "hidden": 8, "cell": "gru"}


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str | bytes):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_output_that_nobody_reads_any_more_ends_a_verb_without_a_word(tmp_path):
    series = tmp_path / "series.csv"
    series.write_text("a\n" + "1\n2\n" * 20)
    unread, out = os.pipe()
    os.close(unread)
    done = subprocess.run(
        [sys.executable, "-u", "-m", "service.cli", "backtest", series], stdout=out, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, timeout=240, check=False,
    )  # fmt: skip
    os.close(out)
    assert done.returncode == 1
    assert "freshet: [Errno" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_spec_is_read_alike_from_toml_json_an_export_and_a_folder(write, tmp_path):
    expected = ModelSpec.from_mapping(SPEC)
    toml = files.spec_toml(expected)

    assert files.read_spec(write("m.toml", 'channels = ["a", "b"]\nhidden = 8\ncell = "gru"')) == expected
    assert files.read_spec(write("m.json", json.dumps(SPEC))) == expected
    assert files.read_spec(write("e.json", json.dumps({"model": "x", "spec": expected.to_mapping()}))) == expected
    assert files.read_spec(write("every.toml", toml)) == expected
    write("model.json", json.dumps({"spec": SPEC}))
    assert files.read_spec(tmp_path) == expected
    write("model.toml", toml)
    assert files.read_spec(tmp_path) == expected


def test_a_file_may_name_a_zone_and_the_spec_holds_its_rule(write):
    spec = files.read_spec(write("m.toml", 'channels = ["a"]\ninterval = 60\nzone = "America/New_York"'))

    assert spec.zone == "EST5EDT,M3.2.0,M11.1.0"
    assert files.read_spec(write("again.toml", files.spec_toml(spec))) == spec


BAD_FILES = {
    "an unknown zone": ("m.toml", 'channels = ["a"]\ninterval = 60\nzone = "Mars"', "zone = 'Mars': no zone of that"),
    "an unknown key": ("m.toml", 'channels = ["a"]\nhiden = 8', r"hiden = 8: unknown key; did you mean hidden\?"),
    "an unknown key in JSON": ("m.json", '{"channels": ["a"], "zzz": 1}', "zzz = 1: unknown key; known are accumulate"),
    "no channels": ("m.toml", "hidden = 8", "channels = None: name the channels"),
    "an absurd size": ("m.toml", 'channels = ["a"]\nhidden = 100000', "hidden = 100000: give 1 to 1024"),
    "a wrong type": ("m.toml", 'channels = ["a"]\nhidden = "8"', "hidden = '8': give a whole number"),
    "a wrong choice": ("m.json", '{"channels": ["a"], "cell": "lsmt"}', "cell = 'lsmt': choose one of lstm"),
    "no TOML": ("m.toml", "channels = [", r"from = .*m\.toml: not a TOML file"),
    "no JSON": ("m.json", '{"channels": ["a"]', r"from = .*m\.json: not a JSON file"),
    "no text": ("m.toml", b"\xff\xfe\x00", "not a TOML file"),
    "a list": ("m.json", "[1]", "give an object of keys"),
    "nothing": ("m.json", "", "not a JSON file"),
    "a key twice": ("m.json", '{"channels": ["a"], "hidden": 1, "hidden": 2}', "key 'hidden' is repeated"),
    "a key twice in TOML": ("m.toml", 'channels = ["a"]\nhidden = 1\nhidden = 2', "not a TOML file"),
    "NaN": ("m.json", '{"channels": ["a"], "clip": NaN}', "clip = nan: give a finite number"),
    "another ending": ("m.yaml", "channels: [a]", r"give a file whose name ends in \.toml or \.json"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_spec_is_refused_by_name(write, case):
    name, text, words = BAD_FILES[case]

    with pytest.raises((Invalid, SpecError), match=words):
        files.read_spec(write(name, text))


def test_create_refuses_a_bad_file_before_it_asks_the_server(write):
    answer = run("create", "flow", "--from", str(write("m.toml", "hiden = 8")), "--url", "127.0.0.1:1")

    assert answer.exit_code == 2
    assert answer.stderr.startswith("freshet: hiden = 8: unknown key; did you mean hidden? known are ")


def test_a_file_that_is_not_there_is_named(tmp_path):
    for source in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(Invalid, match=r"from = .*: no such file, nor a folder with model.toml or model.json"):
            files.read_spec(source)


def test_the_digest_that_an_export_noted_is_read_back(write, tmp_path):
    assert files.recorded_digest(tmp_path) == ""
    write("model.json", json.dumps({"sha256": {"weights.safetensors": "abc"}}))
    assert files.recorded_digest(tmp_path) == "abc"
    write("model.json", "{}")
    with pytest.raises(Invalid, match="not what an export wrote"):
        files.recorded_digest(tmp_path)


def test_weights_that_do_not_fit_are_refused_before_the_server_is_asked(write, tmp_path):
    network = Network(ModelSpec.from_mapping(SPEC | {"hidden": 9}))
    write("weights.safetensors", pack_weights(network, network.init_params().astype(np.float32)))
    write("model.toml", files.spec_toml(ModelSpec.from_mapping(SPEC)))

    answer = run("create", "flow", "--from", str(tmp_path), "--url", "127.0.0.1:1")

    assert answer.exit_code == 2
    assert "weights = " in answer.stderr
    assert "expected float32" in answer.stderr


def test_deleting_is_not_done_unasked():
    answer = run("delete", "flow", "--url", "127.0.0.1:1")

    assert answer.exit_code == 2
    assert "give --yes" in answer.stderr


# ---- printing


def test_a_message_becomes_plain_values_with_every_field():
    version = models_pb2.Version(number=3, digest="ab", loss=0.25)
    event = models_pb2.ModelEvent(kind=models_pb2.ModelEvent.PUBLISHED, numbers={"loss": 1.0})

    assert tables.plain(version) == {
        "number": 3, "parent": 0, "offset": 0, "digest": "ab", "created": 0.0, "loss": 0.25, "anchor_loss": None,
        "parity_error": 0.0,
    }  # fmt: skip
    assert (tables.plain(event)["kind"], tables.plain(event)["numbers"]) == ("PUBLISHED", {"loss": 1.0})
    model = tables.plain(models_pb2.Model(spec=types_pb2.ModelSpec(channels=["a"])))
    assert (model["spec"]["channels"], model["spec"]["hidden"]) == (["a"], None)


def test_an_event_of_a_newer_server_is_shown_by_its_number():
    event = models_pb2.ModelEvent.FromString(b"\x10\x63")  # kind 99

    assert tables.plain(event)["kind"] == 99


def test_what_a_server_sent_steers_no_terminal_and_fills_no_screen():
    assert tables.shown("a\x1b[2Jb\n") == "a?[2Jb?"
    assert len(tables.shown("x" * 10**6)) == tables.CUT


def test_lines_for_a_pipe_are_aligned_and_undecorated(capsys):
    tables.print_table(("name", "loss"), [("flow", 0.123456), ("a", None)])

    assert capsys.readouterr().out == "name  loss\nflow  0.1235\na\n"


def test_a_terminal_gets_a_table_in_which_a_name_is_no_markup(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    tables.print_table(("name",), [("[bold]flow[/bold]",)])

    assert "[bold]flow[/bold]" in capsys.readouterr().out


@pytest.mark.parametrize("text", QUICK_TOML.values(), ids=QUICK_TOML)
def test_a_spec_of_toml_made_to_hurt_its_parser_is_refused(write, text):
    with pytest.raises(Invalid, match="not a TOML file"):
        files.read_spec(write("model.toml", text))
    assert toml_value(text) == text  # of --set, which is text where it is no value


@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_a_spec_of_json_made_to_hurt_its_parser_is_refused(write, tmp_path, text):
    file = write("model.json", text)

    with pytest.raises(Invalid, match="not a JSON file"):
        files.read_spec(file)
    with pytest.raises(Invalid, match="not what an export wrote"):
        files.recorded_digest(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "size"])
def test_a_file_of_weights_that_is_none_is_refused_before_it_is_read(tmp_path, kind):
    file = tmp_path / "weights.safetensors"
    if kind == "pipe":
        os.mkfifo(file)
    else:
        with file.open("wb") as made:
            made.truncate(MAX_WEIGHTS_BYTES + 1)

    with pytest.raises(Invalid, match="weights"):
        files.load_weights(file, ModelSpec(channels=("a",)))
