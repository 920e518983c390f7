"""What a sweep leaves beside its runs."""

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fcn.comparison import ComparisonError, compare, contrast, write_comparison
from fcn.comparison.comparison_files import class_bars, pair_of
from fcn.visualization import group_curves
from tests.comparisons import make_evaluation, make_run, random_confusions


def printed(content):
    console = Console(width=200, file=io.StringIO())
    console.print(content)
    return console.file.getvalue()


def test_tables_and_curves_lie_beside_the_runs(tmp_path):
    for place, lr in enumerate((0.1, 0.2, 0.3)):
        make_run(tmp_path / f"{place}", lr=lr, mean_iou=lr)
    shown = printed(write_comparison(tmp_path))
    assert "0.300" in shown
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "comparison.md", "comparison.csv", "comparison.png",
    }  # fmt: skip
    assert "0.300" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "comparison.csv").read_text().count("\n") == 4
    assert np.asarray(Image.open(tmp_path / "comparison.png")).std() > 5
    assert printed(write_comparison(tmp_path)) == shown  # its own files are no runs


def test_a_figure_that_fails_loses_no_table(tmp_path, monkeypatch):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", lr=0.5)

    def fail(*arguments, **options):
        raise RuntimeError("no font")

    monkeypatch.setattr(group_curves, "draw_group_curves", fail)
    shown = printed(write_comparison(tmp_path))
    assert "comparison.png could not be drawn: no font" in shown
    assert (tmp_path / "comparison.md").is_file()
    assert (tmp_path / "comparison.csv").is_file()
    assert not (tmp_path / "comparison.png").exists()


def test_runs_without_an_epoch_have_no_curves(tmp_path):
    make_run(tmp_path / "a", epochs=0)
    assert "comparison.png could not be drawn: groups must hold at least one run" in printed(write_comparison(tmp_path))


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(ComparisonError, match="must hold a run directory"):
        write_comparison(tmp_path)


def test_two_rows_or_a_chosen_baseline_are_contrasted_by_themselves(tmp_path):
    for place, lr in enumerate((0.1, 0.2)):
        make_evaluation(make_run(tmp_path / f"{place}", lr=lr, mean_iou=lr), random_confusions(4, seed=place))
    both = pair_of(compare([tmp_path]))
    assert (both.first.label, both.second.label) == ("lr=0.2", "lr=0.1")
    assert np.asarray(class_bars(both)).std() > 5
    make_run(tmp_path / "2", lr=0.3, mean_iou=0.3)
    assert pair_of(compare([tmp_path])) is None
    found = compare([tmp_path], baseline="2")
    assert pair_of(found).names == ("row 1: lr=0.3", "row 2: lr=0.2")
    assert np.asarray(class_bars(contrast(found, *found.groups[:2]))).std() > 5  # of the last validations
