"""docs/reference/spec.md: every key of a model's spec."""

from docs.generate._tables import code, table
from service.console.spec_keys import describe

PAGE = "docs/reference/spec.md"

INTRODUCTION = """\
# Keys of a model's spec

What a model sees and how it learns. The same names are keys of a `MODEL.toml` (`freshet models create --from`, `freshet
train --config`, `freshet backtest --config`), of `--set KEY=VALUE`, arguments of `client.create_model`, and fields of
`freshet.v1.ModelSpec`. Only `channels` is required. A spec never changes: another one is another model.
[learning.md](../learning.md) says how to choose. `freshet models keys` prints this table.

"""


def render() -> str:
    """The page."""
    rows = [(code(k.name), k.type, code(k.default), code(k.choices), k.meaning) for k in describe()]
    return INTRODUCTION + table(("key", "type", "default", "choices", "meaning"), rows)
