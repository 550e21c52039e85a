"""Pages made from the code: one module each, with PAGE, where it goes, and `render()`, what it says.

`python -m docs.generate` writes them all; a test compares them with what is committed.
"""

import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
NOTE = "<!-- made by `python -m docs.generate`: change the code that it is made from -->\n\n"


def generators() -> list[ModuleType]:
    """Every module of this folder that makes a page."""
    names = sorted(info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [import_module(f"{__name__}.{name}") for name in names if not name.startswith("_")]
    return [module for module in modules if hasattr(module, "PAGE")]


def page(module: ModuleType) -> tuple[Path, str]:
    """Where a generator's page is, and what it holds."""
    note = NOTE if module.PAGE.endswith(".md") else ""
    return ROOT / module.PAGE, note + module.render().rstrip() + "\n"
