"""Pages that are made from the code say what the code says now."""

import re
from dataclasses import fields

import pytest

from docs import generate
from docs.generate import api, cli, configuration, spec
from model.spec import ModelSpec
from service.access.grants import Quota, Role
from service.server.config import ServeConfig
from tests.docs.markdown import name


@pytest.mark.parametrize("module", generate.generators(), ids=lambda module: module.__name__)
def test_a_generated_page_is_what_its_generator_makes(module):
    path, text = generate.page(module)
    assert path.read_text(encoding="utf-8") == text, f"{name(path)} is stale: run `python -m docs.generate`"


def test_a_changed_setting_makes_its_page_stale(monkeypatch):
    path, _ = generate.page(configuration)
    monkeypatch.setattr(ServeConfig.model_fields["max_streams"], "description", "another meaning")
    assert path.read_text(encoding="utf-8") != generate.page(configuration)[1]


def test_nothing_is_left_out_of_the_reference():
    assert all(f"`{setting}`" in configuration.render() for setting in ServeConfig.model_fields)
    assert all(f"`{key}`" in spec.render() for key in ModelSpec.__dataclass_fields__)
    assert all(f"## freshet {verb}\n" in cli.render() for verb in ("serve", "train", "models list", "journal repair"))
    messages = [message.name for file in api.parsed() for message in file.message_type]
    assert all(f"### {message}\n" in api.render() for message in messages)
    methods = [method.name for file in api.parsed() for service in file.service for method in service.method]
    assert all(f"| `{method}` |" in api.render() for method in methods)
    assert re.search(r"^\| `Delete` \| \S*DeleteModelRequest\S* \| \S* \| admin \|", api.render(), re.M)


def test_every_quota_and_role_is_in_the_guide():
    guide = (generate.ROOT / "docs" / "access.md").read_text(encoding="utf-8")
    assert all(f"\n{field.name} = " in guide for field in fields(Quota))
    assert all(f"| `{role.name.lower()}` |" in guide for role in Role)
