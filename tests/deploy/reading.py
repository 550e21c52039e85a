"""The files of deploy/, read."""

from __future__ import annotations

import re
from typing import Any

import typer
import yaml

from service.cli.main import app
from service.server.config import ENV_PREFIX, ServeConfig
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"


def documents(path: str) -> list[Any]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all((DEPLOY / path).read_text(encoding="utf-8")))


def manifest(kind: str, name: str = "freshet", folder: str = "kubernetes") -> Any:
    """A Kubernetes object among the manifests of a folder."""
    found = [d for p in (DEPLOY / folder).glob("*.yaml") for d in documents(f"{folder}/{p.name}")]
    (one,) = (d for d in found if d["kind"] == kind and d.get("metadata", {}).get("name") == name)
    return one


def dockerfile() -> list[tuple[str, str]]:
    """Instruction and its text, of each in turn."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines) if word]


def last(instruction: str) -> str:
    """The text of the last instruction of a kind."""
    return [text for word, text in dockerfile() if word == instruction][-1]


def image_environment() -> dict[str, str]:
    """Variables of the image."""
    return dict(pair.split("=", 1) for pair in last("ENV").split())


def setting_of(variable: str) -> str:
    """The setting that a variable gives; there must be one."""
    name = variable.removeprefix(ENV_PREFIX).lower()
    assert variable.startswith(ENV_PREFIX), variable
    assert name in ServeConfig.model_fields, variable
    return name


def unit() -> dict[str, dict[str, list[str]]]:
    """The systemd unit: sections, and the values of each of their keys."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in (DEPLOY / "systemd" / "freshet.service").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(section, {}).setdefault(key, []).append(value)
    return found


def seconds(text: str) -> float:
    """Of "30s", "2m"."""
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def understands(*words: str) -> None:
    """Assert that the command line has this verb, and these options of it."""
    command = typer.main.get_command(app)
    assert isinstance(command, typer.core.TyperGroup)
    with typer.Context(command) as context:
        verb = command.get_command(context, words[0])
    assert verb is not None, words
    options = {name for parameter in verb.params for name in parameter.opts}
    assert {word for word in words[1:] if word.startswith("--")} <= options, words
