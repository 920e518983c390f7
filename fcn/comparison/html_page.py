"""The comparison as one self-contained HTML page: readable, sortable and printable."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import NamedTuple

from PIL import Image

from fcn.comparison.remarks import collect_remarks
from fcn.comparison.row_contrast import RowContrast
from fcn.comparison.run_comparison import RunComparison
from fcn.comparison.tables import Table, class_table, main_table, runs_table, settings_table


class Picture(NamedTuple):
    """A figure of the comparison, or the reason why it could not be drawn.

    Attributes:
        title: heading of the section.
        image: None if it could not be drawn.
        caption: description of the figure, or the reason why there is none.
    """

    title: str
    image: Image.Image | None
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
table.sortable td:last-child { min-width: 8rem; }
td.n, th.n { text-align: right; white-space: nowrap; }
td { overflow-wrap: break-word; max-width: 24rem; }
tr.baseline td { background: #f1f5f9; }
table.sortable th { cursor: pointer; } table.sortable th:hover, table.sortable th:focus { background: #f1f5f9; }
th[aria-sort=ascending]::after { content: " \\25B4"; } th[aria-sort=descending]::after { content: " \\25BE"; }
.muted, figcaption, ul.remarks { color: #5f656c; font-size: .86rem; } ul.remarks { padding-left: 1.1rem; }
figure { margin: 0; } figure img { max-width: 100%; height: auto; display: block; }
code { font-size: .92em; overflow-wrap: anywhere; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; align-items: flex-start; }
.pair figure { flex: 1 1 420px; max-width: 640px; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } .wide { overflow: visible; }
  table { font-size: 7.5pt; } th, td { padding: .2rem .4rem; } figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; } }
"""

_SORT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const value = (row, place) => {
    const text = row.cells[place].textContent.trim().replaceAll("\\u2212", "-"), number = parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  [...table.tHead.rows[0].cells].forEach((head, place, heads) => {
    const sort = () => {
      const sign = head.ariaSort === "descending" ? 1 : -1, body = table.tBodies[0];
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
      body.append(...[...body.rows].sort((a, b) => sign * compare(value(a, place), value(b, place))));
    };
    head.tabIndex = 0;
    head.onclick = sort;
    head.onkeydown = event => { if (event.key === "Enter") sort(); };
  });
}
"""


def to_html(
    comparison: RunComparison, *, title: str, contrast: RowContrast | None = None, bars: Picture | None = None,
    pictures: Sequence[Picture] = (),
) -> str:  # fmt: skip
    """Return the page as text.

    Args:
        comparison: shown as the main table with its remarks.
        title: heading of the page.
        contrast: two rows whose settings and classes are set side by side.
        bars: figure of the differences per class of `contrast`.
        pictures: further sections.
    """
    num_runs = sum(len(group.runs) for group in comparison.groups)
    baseline = comparison.groups.index(comparison.baseline) if len(comparison.groups) > 1 else None
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">{num_runs} runs in {len(comparison.groups)} rows, sorted by {escape(comparison.metric)}</p>',
        _html_table(main_table(comparison), sortable=True, highlighted=baseline),
        _html_list(collect_remarks(comparison)),
        *(_section(picture.title, _figure(picture)) for picture in pictures),
        *([_contrast_sections(contrast, bars)] if contrast else []),
        _section("Runs", _html_table(runs_table(comparison))),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(parts)
        + f"\n<script>{_SORT}</script>\n</body></html>\n"
    )


def _contrast_sections(contrast: RowContrast, bars: Picture | None) -> str:
    names = f"<p>A: {escape(contrast.names[0])}<br>B: {escape(contrast.names[1])}</p>"
    classes = _html_table(class_table(contrast), sortable=True) if len(contrast.classes) else ""
    pair = f'<div class="pair">{classes}{_figure(bars) if bars else ""}</div>'
    rows = f"row {contrast.first.number} and row {contrast.second.number}"
    source = f'<p class="muted">{escape(contrast.source)}</p>'
    settings = _section(f"Settings of {rows}", names + _html_table(settings_table(contrast)))
    return settings + _section(f"IoU per class, {rows}", source + pair)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _html_list(lines: Sequence[str]) -> str:
    return f'<ul class="remarks">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""


def _figure(picture: Picture) -> str:
    if picture.image is None:
        return f'<p class="muted">{escape(picture.caption)}</p>'
    buffer = BytesIO()
    picture.image.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{escape(picture.title)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _html_table(table: Table, *, sortable: bool = False, highlighted: int | None = None) -> str:
    kinds = [' class="n"' if numeric else "" for numeric in table.numeric]
    head = "".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, table.heads, strict=True))
    body, baseline = "", ' class="baseline"'
    for place, row in enumerate(table.rows):
        cells = "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row, strict=True))
        body += f"<tr{baseline if place == highlighted else ''}>{cells}</tr>\n"
    name = ' class="sortable"' if sortable else ""
    return f'<div class="wide"><table{name}><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
