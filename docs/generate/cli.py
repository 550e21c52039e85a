"""docs/reference/cli.md: every verb of the command line."""

from typing import Any

import typer

from docs.generate._tables import code, table
from service.cli.main import app

PAGE = "docs/reference/cli.md"

INTRODUCTION = """\
# The command line

`freshet VERB --help` prints the same. Exit codes: 0, done; 1, the command failed or a check found a problem; 2, the
arguments are wrong; 130, interrupted. An error is one line on standard error; it names the problem and the remedy.

"""
SETTINGS = "Options: `--config`, `--with-parent`, and one option per setting of [configuration.md](configuration.md)."


def render() -> str:
    """Return the page."""
    return INTRODUCTION + "\n".join(_command(typer.main.get_command(app), "freshet"))


def _command(command: Any, name: str) -> list[str]:
    """Return the section of a command, or the sections of a group's commands."""
    if hasattr(command, "commands"):
        return [part for verb, child in command.commands.items() for part in _command(child, f"{name} {verb}")]
    context = typer.Context(command, info_name=name)
    parts = [f"## {name}\n", f"`{' '.join([name, *command.collect_usage_pieces(context)])}`\n"]
    parts += [" ".join(text.split()) + "\n" for text in (command.help or "").split("\n\n")]
    if name == "freshet serve":
        return [*parts, SETTINGS + "\n"]
    records = [param.get_help_record(context) for param in command.params]
    return [*parts, table(("", "meaning"), [(code(usage), meaning) for usage, meaning in filter(None, records)])]
