"""HTML page of a comparison: self-contained, escaped and complete."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from fcn.comparison.html_page import Picture, to_html
from fcn.comparison.run_comparison import compare_runs, contrast_rows
from tests.comparisons import make_evaluation, make_run, random_confusions

EVIL = "<script>alert(1)</script> & a|b $x$ \"q\" 'q'"


class Reader(HTMLParser):
    """Collects tags with their attributes, and text; fails if a tag is not closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """Page of two rows whose names are HTML."""
    tmp_path = tmp_path_factory.mktemp("runs")
    classes = [EVIL, "cat", "dog"]
    for place, init in enumerate((EVIL, "xavier")):
        path = make_run(tmp_path / f"<b>&{place}", model__init=init, mean_iou=0.5 - 0.1 * place, data__classes=classes)
        make_evaluation(path, random_confusions(5, seed=place), classes=classes)
    (make_run(tmp_path / "damaged<i>") / "summary.json").write_text("{")
    comparison = compare_runs([tmp_path])
    contrast = contrast_rows(comparison, *comparison.groups)
    return to_html(comparison, contrast, {f"Curves {EVIL}": Picture(Image.new("RGB", (8, 6), "red"), f"of {EVIL}")})


def test_page_is_self_contained(html):
    assert not re.search(r"https?:|//www|@import|url\(", html)
    reader = Reader(html)
    references = [value for _, attributes in reader.tags for key, value in attributes.items() if key in ("src", "href")]
    (source,) = references
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8, 6)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in reader.tags}


def test_text_of_runs_is_escaped(html):
    reader = Reader(html)
    assert not {"b", "i", "script"} & {tag for tag, _ in reader.tags}
    text = " ".join(reader.text)
    for part in (f"Curves {EVIL}", f"of {EVIL}", "<b>&0", "damaged<i> is left out"):
        assert part in text
    assert text.count(EVIL) >= 6  # heading, caption, cell of the table, name of A or B, settings, class


def test_tables_are_complete(html):
    rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    tables = re.findall(r"<table.*?</table>", html, re.DOTALL)
    assert len(tables) == 4  # rows, settings, classes, runs
    for table in tables:
        counts = {len(re.findall(r"<t[dh][ >]", row)) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)}
        assert len(counts) == 1
    assert sum('class="baseline"' in row for row in rows) == 1
    assert "0.500" in tables[0]
    assert "network" in html  # what the interval covers
