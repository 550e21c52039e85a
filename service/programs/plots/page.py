"""A figure as one page: the picture, and its numbers as tables. No script, and no request to anywhere."""

from __future__ import annotations

from html import escape

from service.programs.plots.drawing import Drawing
from service.programs.plots.figure import Figure, Table
from service.programs.plots.styles import DARK, FONT, LIGHT, variables
from service.programs.plots.svg import svg
from service.programs.plots.texts import clean

POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # the browser itself refuses to load anything
STYLE = (
    f":root{{color-scheme:light dark;{variables(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}"
    f"body{{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 {FONT}}}"
    "main{max-width:1088px;margin:0 auto;padding:8px}"
    ".heard{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}"  # the picture shows it
    ".scroll{overflow-x:auto}.scroll:focus-visible{outline:2px solid var(--served);outline-offset:2px}"
    ".freshet-plot{display:block;min-width:720px}"
    "section{margin:8px 24px 32px}h2{font-size:16px;margin:24px 0 8px}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}caption{text-align:left;color:var(--faint);padding-bottom:4px}"
    "th,td{padding:4px 16px 4px 0;border-bottom:1px solid var(--grid);text-align:left}"
    "td+td,th+td,thead th+th{text-align:right;padding-right:0;padding-left:24px}th{font-weight:600}"
    ".facts td{text-align:left}"
)


def page(figure: Figure, drawing: Drawing) -> str:
    """Return the document. Below 720 pixels the picture scrolls inside the page, by touch or by keyboard."""
    title = _text(figure.title)
    tables = "\n".join(_table(table) for table in figure.tables)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1 class="heard">{title}</h1>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">\n{svg(drawing)}</div>\n'
        f"<section>\n{tables}\n</section>\n</main>\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{_text(first)}</th>' + "".join(f"<td>{_text(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in table.rows
    )
    facts = "" if table.columns else ' class="facts"'
    thead = f"<thead><tr>{head}</tr></thead>\n" if table.columns else ""
    title = _text(table.title)
    region = f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">'
    return f"<h2>{title}</h2>\n{region}<table{facts}>\n{thead}<tbody>\n{rows}\n</tbody></table></div>"


def _text(text: str) -> str:
    return escape(clean(text))
