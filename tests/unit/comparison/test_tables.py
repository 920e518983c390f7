"""Tables as text, Markdown, CSV and in terminals of any width."""

import csv
import io
import math

import pytest
from rich.console import Console

from fcn.comparison.grouping import SeedStatistic
from fcn.comparison.run_comparison import compare_runs, contrast_rows
from fcn.comparison.tables import format_mean_sd, format_score, main_table, table_rows
from fcn.comparison.text_formats import escape_markdown, to_csv, to_markdown, to_terminal
from tests.comparisons import make_evaluation, make_run, random_confusions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three rows: two seeds of xavier, one of bilinear, and a failed run."""
    folder = tmp_path_factory.mktemp("runs")
    for number, (init, seed, score, status) in enumerate(
        [("xavier", 0, 0.70, "finished"), ("xavier", 1, 0.72, "finished"), ("bilinear", 0, 0.5, "finished"),
         ("a|b*c", 0, 0.9, "failed")]
    ):  # fmt: skip
        path = make_run(folder / f"{number}_x", model__init=init, seed=seed, mean_iou=score, status=status)
        make_evaluation(path, random_confusions(6, seed=number))
    return folder


def heads_of(table):
    return [column.head for column in table]


def printed(content, width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(content)
    return console.file.getvalue()


def test_main_table_has_a_row_per_group(folder):
    table = main_table(compare_runs([folder]))
    *heads, difference, state = heads_of(table)
    assert heads == ["#", "init", "val mIoU", "best mIoU", "val acc", "train loss", "images/s"]
    assert (difference, state) == ("mIoU \N{MINUS SIGN} row 1 [95 %]", "state")
    first, second, third = table_rows(table)
    assert first[:4] == ("1", "xavier", "0.710 ± 0.014 (2)", "0.720 ± 0.014")
    assert first[-2:] == ("baseline", "2 finished")
    assert second[:4] == ("2", "bilinear", "0.500", "0.510")
    assert third == ("3", "a|b*c", *["\N{EN DASH}"] * 6, "failed")


def test_columns_depend_on_metric_and_differences(folder):
    assert heads_of(main_table(compare_runs([folder], metric="val/iou/dog")))[2:4] == ["val/iou/dog", "val mIoU"]
    assert heads_of(main_table(compare_runs([folder], split="test")))[-2:] == ["images/s", "state"]
    assert heads_of(main_table(compare_runs([folder / "0_x"])))[:2] == ["#", "run"]


def test_csv_holds_all_digits(folder):
    comparison = compare_runs([folder])
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [row["model.init"] for row in rows] == ["xavier", "bilinear", "a|b*c"]
    for row, group, difference in zip(rows, comparison.groups, comparison.differences, strict=True):
        for name in ("val/mean_iou", "train/loss", "images_per_second"):
            statistic = group.statistic(name)
            for cell, value in zip((row[name], row[f"{name} sd"]), (statistic.mean, statistic.sd), strict=True):
                assert float(cell or "nan") == pytest.approx(value, rel=0, abs=0, nan_ok=True)
            assert int(row[f"{name} n"]) == statistic.count
        assert float(row["difference low"] or "nan") == pytest.approx(difference.interval[0], rel=0, abs=0, nan_ok=True)
        assert row["folders"].split(";") == [str(run.path) for run in group.runs]
        assert (int(row["finished"]), int(row["runs"])) == (len(group.finished), len(group.runs))


def test_markdown_table_has_equal_numbers_of_cells(folder):
    text = to_markdown(compare_runs([folder]))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {10}
    assert "| a\\|b\\*c |" in lines[-1]
    assert "| 0.710 ± 0.014 (2) |" in lines[2]
    assert "networks as trained" in text  # meaning of the interval


def test_contrast_is_below_the_table(folder):
    comparison = compare_runs([folder])
    contrast = contrast_rows(comparison, *comparison.groups[:2])
    text = to_markdown(comparison, contrast)
    assert "### A: row 1: init=xavier; B: row 2: init=bilinear" in text
    assert "| model.init | xavier | bilinear |" in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith(("| ground", "| cat", "| dog"))]
    assert len(rows) == 3
    assert all(row[1].strip() in printed(to_terminal(comparison, contrast)) for row in rows)
    differences = [float(row[4].split()[0].replace("\N{MINUS SIGN}", "-")) for row in rows]
    assert differences == sorted(differences, reverse=True)


@pytest.mark.parametrize("width", [76, 100, 200])
def test_narrow_terminals_omit_columns_and_never_break_numbers(folder, width):
    text = printed(to_terminal(compare_runs([folder])), width)
    assert max(map(len, text.splitlines())) <= width
    for part in ("0.710 ± 0.014 (2)", "a|b*c", "failed", "baseline"):
        assert part in text
    assert ("columns omitted to fit the terminal: images/s" in text) == (width < 200)


def test_narrow_terminals_keep_the_intervals_of_finished_runs(tmp_path):
    for number, lr in enumerate((0.1, 0.2)):
        make_evaluation(make_run(tmp_path / f"{number}", lr=lr), random_confusions(4, seed=number))
    narrow = printed(to_terminal(compare_runs([tmp_path])), 50)
    assert "mIoU \N{MINUS SIGN} row 1 [95 %]" in narrow.split("columns omitted")[0]
    assert "state" in narrow.split("columns omitted")[1]


def test_narrow_terminals_merge_the_columns_of_keys(tmp_path):
    for number, lr in enumerate((0.1, 0.2)):
        keys = {"model__init_from": f"{'x' * 40}{number}", "data__root": f"{'y' * 40}{number}"}
        make_run(tmp_path / f"{number}", lr=lr, data__crop_size=[64, 64 + number], **keys)
    wide, narrow = (printed(to_terminal(compare_runs([tmp_path])), width) for width in (220, 70))
    assert "settings" not in wide
    assert "settings" in narrow
    assert "omitted" not in wide
    assert max(map(len, narrow.splitlines())) <= 70
    assert all(text in narrow for text in ("lr=0.1", "crop_size=[64,65]", "0.500", "finished"))


def test_text_of_runs_is_not_interpreted_as_markup(tmp_path):
    make_run(tmp_path / "a", model__init="[red]x[/red]")
    make_run(tmp_path / "b", model__init="y")
    (make_run(tmp_path / "[bold]") / "summary.json").write_text("{")
    text = printed(to_terminal(compare_runs([tmp_path])))
    assert "[red]x[/red]" in text
    assert "[bold] is left out: " in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a\\|b"), ("*a*", "\\*a\\*"), ("_a_", "\\_a\\_"), ("__a__", "\\_\\_a\\_\\_"),
        ("val_split", "val_split"), ("[a](b)", "[a]\\(b)"), ("[64,64]", "[64,64]"), ("<b>", "\\<b>"),
        ("a\nb", "a b"), ("`a`", "\\`a\\`"), ("$a$", "\\$a\\$"), ("a\\", "a\\\\"), ("&lt;", "\\&lt;"),
    ],
)  # fmt: skip
def test_markdown_is_escaped(text, expected):
    assert escape_markdown(text) == expected


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.7541, False, "0.754"), (-0.0312, True, "\N{MINUS SIGN}0.031"), (0.0312, True, "+0.031"),
        (-1e-9, True, "0.000"), (1e-9, True, "0.000"), (0.0, False, "0.000"),
        (254.03, False, "254.0"), (38.117, False, "38.12"), (math.nan, False, "\N{EN DASH}"), (1e6, False, "1000000.0"),
    ],
)  # fmt: skip
def test_number_format(value, sign, text):
    assert format_score(value, sign=sign) == text


@pytest.mark.parametrize(
    ("statistic", "known_count", "text"),
    [
        ((0.754, 0.0061, 3), 1, "0.754 ± 0.006 (3)"),
        ((0.754, 0.0061, 3), 3, "0.754 ± 0.006"),
        ((0.754, math.nan, 1), 1, "0.754"),
        ((0.754, math.nan, 1), 3, "0.754 (1)"),
        ((math.nan, math.nan, 0), 3, "\N{EN DASH}"),
    ],
)
def test_mean_and_deviation_format(statistic, known_count, text):
    assert format_mean_sd(SeedStatistic(*statistic), known_count=known_count) == text
