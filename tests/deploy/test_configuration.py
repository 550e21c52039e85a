"""deploy/freshet.toml shows every setting, and is a settings file."""

import re
import tomllib

from docs.generate.example import UNSET
from service.server.config import ServeConfig, load
from tests.conftest import ROOT

TEXT = (ROOT / "deploy" / "freshet.toml").read_text(encoding="utf-8")


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=\w)", "", text, flags=re.M)


def test_as_it_is_it_changes_nothing(tmp_path):
    (tmp_path / "freshet.toml").write_text(TEXT)
    assert tomllib.loads(TEXT) == {}
    assert load({}, tmp_path / "freshet.toml") == ServeConfig()


def test_with_every_line_taken_in_it_names_every_setting_and_gives_its_default(tmp_path):
    everything = tomllib.loads(uncommented(TEXT))
    assert list(everything) == list(ServeConfig.model_fields)
    unset = [name for name, field in ServeConfig.model_fields.items() if field.default is None]
    with_defaults = "".join(line for line in uncommented(TEXT).splitlines(True) if line.split(" ")[0] not in unset)
    (tmp_path / "freshet.toml").write_text(with_defaults)
    assert load({}, tmp_path / "freshet.toml") == ServeConfig()
    assert TEXT.count(UNSET) == len(unset)


def test_every_setting_is_described():
    prose = " ".join(line.lstrip("# ") for line in TEXT.splitlines())
    described = [(name, field.description or "") for name, field in ServeConfig.model_fields.items()]
    assert [name for name, text in described if not text or text not in prose] == []
