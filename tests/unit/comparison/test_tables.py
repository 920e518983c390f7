"""What is printed and written: read back, and hard to read for no terminal, Markdown or spreadsheet."""

import csv
import io
import math

import pytest
from rich.console import Console

from fcn.comparison import compare, contrast
from fcn.comparison.seed_groups import Statistic
from fcn.comparison.tables import csv_text, escaped, main_table, markdown, mean_sd, number, renderable
from tests.comparisons import make_evaluation, make_run, random_confusions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three rows: two seeds of xavier, one of bilinear, one that failed."""
    folder = tmp_path_factory.mktemp("runs")
    for number_, (init, seed, score, status) in enumerate(
        [("xavier", 0, 0.70, "finished"), ("xavier", 1, 0.72, "finished"), ("bilinear", 0, 0.5, "finished"),
         ("a|b*c", 0, 0.9, "failed")]
    ):  # fmt: skip
        path = make_run(folder / f"{number_}_x", model__init=init, seed=seed, mean_iou=score, status=status)
        make_evaluation(path, random_confusions(6, seed=number_))
    return folder


def printed(content, width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(content)
    return console.file.getvalue()


def test_the_table_has_a_row_per_group_with_seeds_folded(folder):
    table = main_table(compare([folder]))
    *heads, difference, state = table.heads
    assert heads == ["#", "init", "val mIoU", "best mIoU", "val acc", "train loss", "images/s"]
    assert (difference, state) == ("mIoU \N{MINUS SIGN} row 1 [95 %]", "state")
    first, second, third = table.rows
    assert first[:4] == ["1", "xavier", "0.710 ± 0.014 (2)", "0.720 ± 0.014"]
    assert first[-2:] == ["baseline", "2 finished"]
    assert second[:4] == ["2", "bilinear", "0.500", "0.510"]
    assert third == ["3", "a|b*c", *["\N{EN DASH}"] * 6, "failed"]


def test_the_metric_that_sorts_comes_first(folder):
    table = main_table(compare([folder], metric="val/iou/dog"))
    assert table.heads[2:4] == ["val/iou/dog", "val mIoU"]


def test_without_a_difference_there_is_no_column_of_them(folder):
    table = main_table(compare([folder], split="test"))
    assert table.heads[-2:] == ["images/s", "state"]
    assert main_table(compare([folder / "0_x"])).heads[:2] == ["#", "run"]


def test_csv_holds_all_digits_and_reads_back(folder):
    found = compare([folder])
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [row["model.init"] for row in rows] == ["xavier", "bilinear", "a|b*c"]
    for row, group, difference in zip(rows, found.groups, found.differences, strict=True):
        for name in ("val/mean_iou", "train/loss", "images_per_second"):
            statistic = group.statistic(name)
            for cell, value in zip((row[name], row[f"{name} sd"]), (statistic.mean, statistic.sd), strict=True):
                assert float(cell or "nan") == pytest.approx(value, rel=0, abs=0, nan_ok=True)
            assert int(row[f"{name} n"]) == statistic.count
        assert float(row["difference low"] or "nan") == pytest.approx(difference.low, rel=0, abs=0, nan_ok=True)
        assert row["folders"].split(";") == [str(run.path) for run in group.runs]
        assert (int(row["finished"]), int(row["runs"])) == (len(group.finished), len(group.runs))


def test_markdown_has_as_many_cells_in_every_row(folder):
    lines = [line for line in markdown(compare([folder])).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {10}
    assert "| a\\|b\\*c |" in lines[-1]
    assert "| 0.710 ± 0.014 (2) |" in lines[2]
    assert "network" in markdown(compare([folder]))  # what the interval covers


def test_a_contrast_is_below_the_table(folder):
    found = compare([folder])
    both = contrast(found, *found.groups[:2])
    text = markdown(found, both)
    assert "### A: row 1: init=xavier; B: row 2: init=bilinear" in text
    assert "| model.init | xavier | bilinear |" in text
    shown = printed(renderable(found, both))
    for name in ("ground", "cat", "dog"):
        assert name in text
        assert name in shown
    deltas = [
        line.split("|")[4].split()[0] for line in text.splitlines() if line.startswith(("| ground", "| cat", "| dog"))
    ]
    values = [float(delta.replace("\N{MINUS SIGN}", "-")) for delta in deltas]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("width", [76, 100, 200])
def test_no_number_is_broken_in_a_narrow_terminal(folder, width):
    shown = printed(renderable(compare([folder])), width)
    assert max(map(len, shown.splitlines())) <= width
    for text in ("0.710 ± 0.014 (2)", "a|b*c", "failed"):
        assert text in shown
    assert "baseline" in shown
    assert ("no room for images/s" in shown) == (width < 200)


def test_where_keys_have_no_room_they_share_a_column(tmp_path):
    for number_, lr in enumerate((0.1, 0.2)):
        keys = {"model__init_from": f"{'x' * 40}{number_}", "data__root": f"{'y' * 40}{number_}"}
        make_run(tmp_path / f"{number_}", lr=lr, data__crop_size=[64, 64 + number_], **keys)
    wide, narrow = (printed(renderable(compare([tmp_path])), width) for width in (220, 70))
    assert "settings" not in wide
    assert "settings" in narrow
    assert "no room" not in wide
    assert max(map(len, narrow.splitlines())) <= 70
    assert all(text in narrow for text in ("lr=0.1", "crop_size=[64,65]", "0.500", "finished"))


def test_text_of_a_run_is_no_markup(tmp_path):
    make_run(tmp_path / "a", model__init="[red]x[/red]")
    make_run(tmp_path / "b", model__init="y")
    (make_run(tmp_path / "[bold]") / "summary.json").write_text("{")
    shown = printed(renderable(compare([tmp_path])))
    assert "[red]x[/red]" in shown
    assert "[bold] is left out: " in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a\\|b"), ("*a*", "\\*a\\*"), ("_a_", "\\_a\\_"),
        ("__a__", "\\_\\_a\\_\\_"),
        ("val_split", "val_split"),
        ("[a](b)", "[a]\\(b)"), ("[64,64]", "[64,64]"), ("<b>", "\\<b>"), ("a\nb", "a b"), ("`a`", "\\`a\\`"),
        ("$a$", "\\$a\\$"), ("a\\", "a\\\\"), ("&lt;", "\\&lt;"),
    ],
)  # fmt: skip
def test_markdown_shows_text_as_it_is(text, expected):
    assert escaped(text) == expected


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.7541, False, "0.754"), (-0.0312, True, "\N{MINUS SIGN}0.031"), (0.0312, True, "+0.031"),
        (-1e-9, True, "0.000"), (1e-9, True, "0.000"), (0.0, False, "0.000"),
        (254.03, False, "254.0"), (38.117, False, "38.12"), (math.nan, False, "\N{EN DASH}"), (1e6, False, "1000000.0"),
    ],
)  # fmt: skip
def test_numbers(value, sign, text):
    assert number(value, sign=sign) == text


def test_mean_and_deviation():
    assert mean_sd(Statistic(0.754, 0.0061, 3)) == "0.754 ± 0.006 (3)"
    assert mean_sd(Statistic(0.754, 0.0061, 3), usual=3) == "0.754 ± 0.006"
    assert mean_sd(Statistic(0.754, math.nan, 1)) == "0.754"
    assert mean_sd(Statistic(0.754, math.nan, 1), usual=3) == "0.754 (1)"
    assert mean_sd(Statistic(math.nan, math.nan, 0), usual=3) == "\N{EN DASH}"
