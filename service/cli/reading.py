"""Options for reading a file, shared by `backtest` and `train`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

_OPTIONS: dict[str, tuple[Any, str, str, str]] = {  # parameter: type, flag, metavar, help
    "time": (str | None, "--time", "COLUMNS", "Columns with a row's time: one, or DATE,HOUR [default: detected]."),
    "time_format": (
        str | None, "--time-format", "FORM",
        "Form of numeric times: s, ms, us, ns, excel, yyyymm, yyyymmdd, yyyymmddhh, yyyymmddhhmm, yyyymmddhhmmss.",
    ),
    "day_first": (bool | None, "--day-first/--month-first", "", "Order in dates such as 1/2/2021 [default: detected]."),
    "zone": (str | None, "--zone", "ZONE", "Zone of times without one: Europe/Berlin, +01:00 [default: UTC]."),
    "separator": (str | None, "--separator", "CHAR", "Separator of cells: a character, or tab [default: detected]."),
    "header": (bool | None, "--header/--no-header", "", "Whether the first row holds names [default: detected]."),
    "decimal": (str | None, "--decimal", "MARK", "Decimal mark: point or comma [default: detected]."),
    "missing": (list[str] | None, "--missing", "WORD", "Another word or number for a missing value; repeatable."),
    "sort": (bool, "--sort", "", "Sort the rows by time."),
    "duplicates": (str, "--duplicates", "HOW", "Rows with the same time: refuse, last or mean."),
    "id": (str | None, "--id", "COLUMN", "Column that names the series of each row, for a file with many series."),
}  # fmt: skip
_DEFAULTS = {"sort": False, "duplicates": "refuse"}


def reading(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace a verb's parameter `options`, a function that returns `Options`, by command line options."""

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
