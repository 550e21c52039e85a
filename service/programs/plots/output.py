"""The file of a picture: its kind by the end of its name, checked before the long work, written after it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from service.common.errors import Invalid
from service.programs.plots.figure import Figure
from service.programs.plots.layout import laid_out
from service.programs.plots.page import page
from service.programs.plots.png import png
from service.programs.plots.svg import svg

KINDS = (".html", ".svg", ".png")
EXTRA = "freshet-server[plot]"


def check_plot(path: Path | None) -> None:
    """Refuse a picture that cannot be written: another kind, a folder, no permission, PNG without Pillow.

    Raises Invalid, which names the option. A file that did not exist is made and removed again.
    """
    if path is None:
        return
    if path.suffix.lower() not in KINDS:
        raise Invalid("plot", str(path), "end the name in .html, .svg or .png")
    if path.suffix.lower() == ".png" and find_spec("PIL") is None:
        raise Invalid("plot", str(path), f"PNG needs Pillow: pip install '{EXTRA}', or give .html or .svg")
    existed = path.exists()
    try:
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        why = f"it cannot be written ({error.strerror}): give a file in a folder that exists"
        raise Invalid("plot", str(path), why) from None


def write_plot(figure: Figure, path: Path) -> None:
    """Write a figure as the kind of file that its name says. Raises OSError."""
    drawing = laid_out(figure)
    match path.suffix.lower():
        case ".png":
            path.write_bytes(png(drawing))
        case ".html":
            path.write_text(page(figure, drawing), encoding="utf-8")
        case _:
            path.write_text(svg(drawing), encoding="utf-8")
