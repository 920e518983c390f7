"""The comparison as one self-contained HTML page: readable and printable."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from io import BytesIO
from typing import NamedTuple

from PIL import Image

from fcn.comparison.remarks import collect_remarks
from fcn.comparison.run_comparison import RowContrast, RunComparison
from fcn.comparison.tables import Table, class_table, main_table, runs_table, settings_table, table_rows


class Picture(NamedTuple):
    """A figure of the comparison and its description."""

    image: Image.Image
    caption: str


_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #212529;
  background: #fff; max-width: 1400px; margin: 2.2rem auto; padding: 0 1.4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.12rem; margin: 2.4rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .6rem; text-align: left; border-bottom: 1px solid #e3e6e9; vertical-align: top; }
th { border-bottom: 2px solid #868e96; white-space: nowrap; vertical-align: bottom; }
td.n, th.n { text-align: right; white-space: nowrap; }
td { overflow-wrap: break-word; max-width: 24rem; }
tr.baseline td { background: #f1f5f9; }
.muted, figcaption, ul.remarks { color: #5f656c; font-size: .86rem; } ul.remarks { padding-left: 1.1rem; }
figure { margin: 0; } figure img { max-width: 100%; height: auto; display: block; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } .wide { overflow: visible; }
  table { font-size: 7.5pt; } th, td { padding: .2rem .4rem; } figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; } }
"""


def to_html(comparison: RunComparison, contrast: RowContrast | None, pictures: Mapping[str, Picture]) -> str:
    """Return the page as text.

    Args:
        comparison: shown as the main table with its remarks.
        contrast: two rows whose settings and classes are set side by side.
        pictures: figures by the headings of their sections.
    """
    title = escape(f"Comparison of {', '.join(map(str, comparison.folders))}")
    num_runs, num_rows = sum(len(group.runs) for group in comparison.groups), len(comparison.groups)
    remarks = "".join(f"<li>{escape(line)}</li>" for line in collect_remarks(comparison))
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="muted">{num_runs} runs in {num_rows} rows, sorted by {escape(comparison.metric)}</p>',
        _html_table(main_table(comparison), highlighted=comparison.baseline.number - 1 if num_rows > 1 else None),
        f'<ul class="remarks">{remarks}</ul>',
    ]
    if contrast:
        names = f"<p>A: {escape(contrast.names[0])}<br>B: {escape(contrast.names[1])}</p>"
        classes = _html_table(class_table(contrast)) if len(contrast.classes) else ""
        parts.append(_section("Settings of A and B", names + _html_table(settings_table(contrast))))
        parts.append(_section("IoU per class", f'<p class="muted">{escape(contrast.source)}</p>{classes}'))
    parts += [_section(heading, _figure(picture, heading)) for heading, picture in pictures.items()]
    parts.append(_section("Runs", _html_table(runs_table(comparison))))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    head = f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n'
    return head + "\n".join(parts) + "\n</body></html>\n"


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def _figure(picture: Picture, name: str) -> str:
    buffer = BytesIO()
    picture.image.save(buffer, format="PNG", optimize=True)
    image = f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    return f"<figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _html_table(table: Table, *, highlighted: int | None = None) -> str:
    kinds = [' class="n"' if column.numeric else "" for column in table]
    head = "".join(f"<th{kind}>{escape(column.head)}</th>" for kind, column in zip(kinds, table, strict=True))
    body = ""
    for place, row in enumerate(table_rows(table)):
        name = ' class="baseline"' if place == highlighted else ""
        cells = "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row, strict=True))
        body += f"<tr{name}>{cells}</tr>\n"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
