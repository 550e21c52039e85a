"""docs/reference/spec.md: every key of a model's spec."""

from docs.generate._tables import code, table
from service.console.spec_keys import describe

PAGE = "docs/reference/spec.md"

INTRODUCTION = """\
# Keys of a model's spec

A spec defines a model's inputs and how it learns. The keys have the same names everywhere: in a `MODEL.toml` (`freshet
models create --from`, `freshet train --config`, `freshet backtest --config`), in `--set KEY=VALUE`, as arguments of
`client.create_model` and as fields of `freshet.v1.ModelSpec`. Only `channels` is required. A model's spec never
changes; for another spec, create another model. [learning.md](../learning.md) explains how to choose values.
`freshet models keys` prints this table.

"""


def render() -> str:
    """Return the page."""
    rows = [(code(k.name), k.type, code(k.default), code(k.choices), k.meaning) for k in describe()]
    return INTRODUCTION + table(("key", "type", "default", "choices", "meaning"), rows)
