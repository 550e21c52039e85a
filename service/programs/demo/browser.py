"""Opens the live page in the user's browser, where there is one to see it."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from collections.abc import Mapping

DESKTOPS = ("darwin", "win32")  # always have a display
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def has_display(platform: str, variables: Mapping[str, str], terminal: bool) -> bool:
    """Return whether a person can see a page: a display, a terminal for our output, and no CI."""
    shown = platform in DESKTOPS or any(variables.get(name) for name in DISPLAYS)
    return shown and terminal and not variables.get("CI")


def open_page(url: str) -> bool:
    """Open a page where it can be seen; return whether a browser was started. A browser that fails is no error."""
    if not has_display(sys.platform, os.environ, sys.stdout.isatty()):
        return False
    with contextlib.suppress(webbrowser.Error, OSError):
        return webbrowser.open(url)
    return False
