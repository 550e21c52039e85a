"""Texts that fit their place: how wide they are, roughly, and what a file may hold of them."""

from __future__ import annotations

import re

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
WIDTH, BOLD_WIDTH, FULL_WIDTH = 0.53, 0.57, 1.0  # of a character, in sizes of the font: a little more than the mean
# What XML 1.0 forbids, escaped or not, and lone surrogates, which UTF-8 cannot hold.
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """Return a text on one line with only characters that an XML document may hold; others become U+FFFD."""
    return " ".join(FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text).split())


def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """Return about how many pixels a text takes at a font size in pixels."""
    wide = sum(ord(character) >= 0x1100 for character in text)
    return size * ((BOLD_WIDTH if bold else WIDTH) * (len(text) - wide) + FULL_WIDTH * wide)


def fitted(text: str, width: float, size: float, *, bold: bool = False) -> str:
    """Return a text cut to a width in pixels, with an ellipsis if something is cut off."""
    text = clean(text)
    if width_of(text, size, bold=bold) <= width:
        return text
    while text and width_of(text + ELLIPSIS, size, bold=bold) > width:
        text = text[: min(len(text) - 1, int(width / size / WIDTH))] if len(text) > width else text[:-1]
    return text.rstrip() + ELLIPSIS
