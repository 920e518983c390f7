"""Files of a comparison, in the folder of a sweep and in an output folder."""

import io

import numpy as np
from PIL import Image
from rich.console import Console

from fcn.comparison import prediction_panels
from fcn.comparison.html_page import Picture
from fcn.comparison.output_files import summarize_sweep, write_comparison
from fcn.comparison.run_comparison import compare_runs, default_contrast
from fcn.visualization import learning_curves
from tests.comparisons import make_evaluation, make_run, random_confusions


def printed(content):
    console = Console(width=200, file=io.StringIO())
    console.print(content)
    return console.file.getvalue()


def file_names(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_sweep_summary_is_written_next_to_the_runs(tmp_path):
    for place, lr in enumerate((0.1, 0.2, 0.3)):
        make_run(tmp_path / f"{place}", lr=lr, mean_iou=lr)
    summary = printed(summarize_sweep(tmp_path))
    assert "0.300" in summary
    assert file_names(tmp_path) == {"comparison.md", "comparison.csv", "comparison.png"}
    assert "0.300" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "comparison.csv").read_text().count("\n") == 4
    assert np.asarray(Image.open(tmp_path / "comparison.png")).std() > 5
    assert printed(summarize_sweep(tmp_path)) == summary  # its own files are no runs


def test_failure_of_a_figure_keeps_the_tables(tmp_path, monkeypatch):
    make_run(tmp_path / "a")

    def fail(*arguments, **options):
        raise RuntimeError("no font")

    monkeypatch.setattr(learning_curves, "draw_group_curves", fail)
    assert "comparison.png could not be drawn: RuntimeError: no font" in printed(summarize_sweep(tmp_path))
    assert file_names(tmp_path) == {"comparison.md", "comparison.csv"}


def test_runs_without_an_epoch_have_no_curves(tmp_path):
    make_run(tmp_path / "a", epochs=0)
    assert "comparison.png could not be drawn: no run has completed an epoch" in printed(summarize_sweep(tmp_path))


def write(folder, *, num_panels=0):
    comparison = compare_runs([folder / "runs"])
    return write_comparison(folder / "a" / "out", comparison, default_contrast(comparison), num_panels=num_panels)


def test_output_folder_holds_tables_figures_and_page(tmp_path, monkeypatch):
    for place, lr in enumerate((0.1, 0.2)):
        run = make_run(tmp_path / "runs" / f"{place}", lr=lr, mean_iou=lr)
        make_evaluation(run, random_confusions(4, seed=place))
    output = tmp_path / "a" / "out"
    picture = Picture(Image.new("RGB", (9, 9), "red"), "of two runs")
    monkeypatch.setattr(prediction_panels, "draw_prediction_panels", lambda comparison, num_images: picture)
    assert write(tmp_path, num_panels=4) == [f"{output}/comparison.html"]
    tables = {"comparison.md", "comparison.csv", "comparison.html"}
    figures = {"comparison.png", "class_differences.png"}
    assert file_names(output) == {*tables, *figures, "predictions.png"}
    assert all(np.asarray(Image.open(output / name)).std() > 5 for name in figures)
    assert "### A: row 1: lr=0.2; B: row 2: lr=0.1" in (output / "comparison.md").read_text()
    assert (output / "comparison.html").read_text().count("data:image/png;base64,") == 3
    make_run(tmp_path / "runs" / "2", lr=0.3, mean_iou=0.3)
    assert len(write(tmp_path)) == 1
    assert file_names(output) == {*tables, "comparison.png"}  # figures of the earlier comparison are gone


def test_missing_figures_are_reported(tmp_path):
    for place, split in enumerate(("val", "other")):
        make_run(tmp_path / "runs" / f"{place}", mean_iou=0.5, data__val_split=split)

    reason = "class_differences.png could not be drawn: no common validation (row 2: not evaluated)"
    first, second = write(tmp_path, num_panels=4)[1:]
    assert first == reason
    assert second.startswith("predictions.png could not be drawn: panels need a run with checkpoints/best.ckpt")
