"""Pages made from the code, one module each: PAGE is the page's path, `render()` returns its text.

`python -m docs.generate` writes all pages; a test compares them with the committed ones.
"""

import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
NOTE = "<!-- made by `python -m docs.generate` from the code: change the code, not this page -->\n\n"


def generators() -> list[ModuleType]:
    """Return every module of this folder that makes a page."""
    names = sorted(info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [import_module(f"{__name__}.{name}") for name in names if not name.startswith("_")]
    return [module for module in modules if hasattr(module, "PAGE")]


def page(module: ModuleType) -> tuple[Path, str]:
    """Return the path and the text of a generator's page."""
    note = NOTE if module.PAGE.endswith(".md") else ""
    return ROOT / module.PAGE, note + module.render().rstrip() + "\n"
