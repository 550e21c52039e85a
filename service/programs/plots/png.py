"""A drawing as PNG, through Pillow, which is imported only here and only when a PNG is written."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import cycle, pairwise
from math import hypot
from typing import TYPE_CHECKING, Any

from service.programs.plots.drawing import Area, Drawing, Item, Path, Rule, Shade, Symbol, Text
from service.programs.plots.figure import F64
from service.programs.plots.styles import DASHES, LIGHT, SHAPES

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SCALE = 2  # pixels of the file per pixel of the drawing: sharp on dense screens
SMOOTHING = 2  # drawn larger by this and reduced, because Pillow's lines have no smooth edges
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
Point = tuple[float, float]


def png(drawing: Drawing) -> bytes:
    """Return the file: SCALE times the drawing's size, in the light colours. Raises ImportError without Pillow."""
    from PIL import Image, ImageDraw

    times = SCALE * SMOOTHING
    image = Image.new("RGB", (drawing.width * times, drawing.height * times), LIGHT["paper"])
    pen = ImageDraw.Draw(image, "RGBA")
    texts = [item for item in drawing.items if isinstance(item, Text)]
    for item in drawing.items:
        if not isinstance(item, Text):
            _draw(pen, item, times)
    image = image.resize((drawing.width * SCALE, drawing.height * SCALE), Image.Resampling.BOX)
    pen = ImageDraw.Draw(image)
    for text in texts:  # after the reduction: Pillow smooths letters itself
        _write(pen, text)
    out = BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _write(pen: ImageDraw, text: Text) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(text.size * SCALE)
    colour = LIGHT["faint" if text.faint else "ink"]
    # The font inside Pillow has one weight, so that a stroke makes it bold.
    stroke: dict[str, Any] = {"stroke_width": 0.4 * SCALE, "stroke_fill": colour} if text.bold else {}
    pen.text((text.x * SCALE, text.y * SCALE), text.text, colour, font, ANCHORS[text.anchor], **stroke)


def _draw(pen: ImageDraw, item: Item, times: int) -> None:
    match item:
        case Path():
            width = max(1, round(item.width * times))
            for part in _dashed(item.points, DASHES[item.dash]):
                pen.line([(x * times, y * times) for x, y in part], LIGHT[item.role], width, joint="curve")
        case Area():
            colour = f"{LIGHT[item.role]}{round(item.opacity * 255):02x}"
            pen.polygon([(x * times, y * times) for x, y in item.points.tolist()], fill=colour)
        case Rule():
            colour = LIGHT["axis" if item.strong else "grid"]
            pen.line([(item.x1 * times, item.y1 * times), (item.x2 * times, item.y2 * times)], colour, times)
        case Shade():
            corner = (item.x + item.width) * times, (item.y + item.height) * times
            pen.rectangle([item.x * times, item.y * times, *corner], fill=LIGHT["shade"])
        case Symbol():
            corners = [((item.x + dx) * times, (item.y + dy) * times) for dx, dy in SHAPES[item.kind]]
            pen.polygon(corners, fill=LIGHT[item.kind])


def _dashed(points: F64, lengths: tuple[float, ...]) -> Iterator[list[Point]]:
    """Yield the strokes of a line; one point alone is a short stroke."""
    way: list[Point] = [(x, y) for x, y in points.tolist()]
    if len(way) == 1:
        way = [(way[0][0] - 1, way[0][1]), (way[0][0] + 1, way[0][1])]
    if not lengths:
        yield way
        return
    turns = cycle(zip(lengths, (True, False), strict=True))
    left, drawn = next(turns)
    stroke = [way[0]]
    for (x, y), (x2, y2) in pairwise(way):
        length, done = hypot(x2 - x, y2 - y), 0.0
        while length - done > left:
            done += left
            corner = x + (x2 - x) * done / length, y + (y2 - y) * done / length
            if drawn:
                yield [*stroke, corner]
            stroke = [corner]
            left, drawn = next(turns)
        left -= length - done
        stroke.append((x2, y2))
    if drawn and len(stroke) > 1:
        yield stroke
