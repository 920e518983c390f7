"""The page: nothing from outside, nothing of a run's text taken for HTML, every part in its place."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from fcn.comparison import compare, contrast
from fcn.comparison.html_page import Picture, page
from tests.comparisons import make_evaluation, make_run, random_confusions

EVIL = "<script>alert(1)</script> & a|b $x$ \"q\" 'q'"


class Reader(HTMLParser):
    """Tags with their attributes, and text; complains of tags that are not closed."""

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
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """Of two rows with names that want to be HTML."""
    tmp_path = tmp_path_factory.mktemp("runs")
    classes = [EVIL, "cat", "dog"]
    for place, init in enumerate((EVIL, "xavier")):
        path = make_run(tmp_path / f"<b>&{place}", model__init=init, mean_iou=0.5 - 0.1 * place, data__classes=classes)
        make_evaluation(path, random_confusions(5, seed=place), classes=classes)
    (make_run(tmp_path / "torn<i>") / "summary.json").write_text("{")
    found = compare([tmp_path])
    pictures = [Picture("Curves", Image.new("RGB", (8, 6), "red"), f"of {EVIL}"), Picture("None", None, f"no {EVIL}")]
    return page(found, title=f"Runs {EVIL}", contrast=contrast(found, *found.groups), pictures=pictures)


def test_the_page_needs_no_other_file(html):
    assert not re.search(r"https?:|//www|@import|url\(", html)
    reader = Reader(html)
    references = [value for _, attributes in reader.tags for key, value in attributes.items() if key in ("src", "href")]
    (picture,) = references
    kind, _, data = picture.partition(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8, 6)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in reader.tags}


def test_text_of_runs_is_never_html(html):
    reader = Reader(html)
    assert [tag for tag, _ in reader.tags].count("script") == 1  # our own
    assert not {"b", "i"} & {tag for tag, _ in reader.tags}
    text = " ".join(reader.text)
    for wanted in (f"Runs {EVIL}", f"of {EVIL}", f"no {EVIL}", "<b>&0", "torn<i> is left out"):
        assert wanted in text
    assert text.count(EVIL) >= 6  # title, heading, cell of the table, captions, settings, class


def test_tables_are_whole(html):
    rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    tables = re.findall(r"<table.*?</table>", html, re.DOTALL)
    assert len(tables) == 4  # rows, settings, classes, runs
    for table in tables:
        counts = {len(re.findall(r"<t[dh][ >]", row)) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)}
        assert len(counts) == 1
    assert sum('class="baseline"' in row for row in rows) == 1
    assert "0.500" in tables[0]
    assert "network" in html  # what the interval covers
