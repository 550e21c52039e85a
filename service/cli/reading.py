"""How a verb of the command line reads a file: options that `backtest` and `train` share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

_OPTIONS: dict[str, tuple[Any, str, str, str]] = {  # parameter: type, flag, metavar, help
    "time": (str | None, "--time", "COLUMNS", "When a row is: a column, or DATE,HOUR [default: found by itself]."),
    "time_format": (
        str | None, "--time-format", "FORM",
        "Of times in numbers: s, ms, us, ns, excel, yyyymm, yyyymmdd, yyyymmddhh, yyyymmddhhmm, yyyymmddhhmmss.",
    ),
    "day_first": (bool | None, "--day-first/--month-first", "", "Of dates such as 1/2/2021 [default: from all rows]."),
    "zone": (str | None, "--zone", "ZONE", "Of times without one: Europe/Berlin, +01:00 [default: UTC]."),
    "separator": (str | None, "--separator", "CHAR", "Between cells: a character, or tab [default: found]."),
    "header": (bool | None, "--header/--no-header", "", "Whether the first row holds names [default: looked at]."),
    "decimal": (str | None, "--decimal", "MARK", "point or comma [default: from all rows]."),
    "missing": (list[str] | None, "--missing", "WORD", "A further word, or number, for a missing value; repeatable."),
    "sort": (bool, "--sort", "", "Sort the rows by time."),
    "duplicates": (str, "--duplicates", "HOW", "Rows of one time: refuse, last or mean."),
    "id": (str | None, "--id", "COLUMN", "Many series in one file: the column that names each row's."),
}  # fmt: skip
_DEFAULTS = {"sort": False, "duplicates": "refuse"}


def reading(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb whose parameter `options`, a function that makes `Options`, is made of command line options."""

    @functools.wraps(verb)
    def called(**given: Any) -> None:
        asked = {name: given.pop(name) for name in _OPTIONS}

        def options() -> Any:
            from service.programs.tables.options import Options

            return Options(**asked | {"missing": tuple(asked["missing"] or ())})

        verb(**given, options=options)

    signature = inspect.signature(verb, eval_str=True)
    made: dict[str, inspect.Parameter] = {}
    for parameter in signature.parameters.values():
        if parameter.name != "options":
            made[parameter.name] = parameter
            continue
        for name, (kind, flag, metavar, text) in _OPTIONS.items():
            option = typer.Option(flag, help=text, metavar=metavar or None)
            default = _DEFAULTS.get(name)
            made[name] = inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
            )
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in made.values()]
    )
    called.__annotations__ = {name: parameter.annotation for name, parameter in made.items()}
    return called
