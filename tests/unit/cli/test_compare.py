"""What a user of scripts/compare.py relies on: a table, the files that were asked for, or one line."""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.commands import load_command, type_in
from tests.comparisons import make_evaluation, make_run, random_confusions

script = load_command("compare")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three rows of one run each, evaluated on the same images; the working directory is beside them."""
    for number, lr in enumerate((0.1, 0.2, 0.3)):
        path = make_run(tmp_path / "runs" / f"{number}", lr=lr, mean_iou=lr, data__root=str(tmp_path / "gone"),
                        data__name="voc")  # fmt: skip
        make_evaluation(path, random_confusions(5, seed=number))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def compare(monkeypatch, capsys):
    return lambda *arguments: type_in(monkeypatch, capsys, *map(str, arguments), script=script)


def test_the_table_is_printed_and_nothing_is_written(folder, compare):
    status, out, err = compare("runs")
    assert (status, err) == (0, "")
    assert out.index("0.300") < out.index("0.200") < out.index("0.100")
    assert "baseline" in out
    assert [path.name for path in folder.iterdir()] == ["runs"]


def test_every_file_that_is_asked_for_is_written(folder, compare):
    files = ["t.csv", "new/t.md", "curves.png", "classes.png", "page.html"]
    options = ["--csv", "--markdown", "--figure", "--class-figure", "--html"]
    asked = [part for pair in zip(options, files, strict=True) for part in pair]
    status, out, err = compare("runs", "--between", 1, "runs/0", *asked)
    assert (status, err) == (0, "")
    assert set(out.splitlines()[-5:]) == set(files)
    assert [row["lr"] for row in csv.DictReader((folder / "t.csv").open())] == ["0.3", "0.2", "0.1"]
    assert "### A: row 1: lr=0.3; B: row 3: lr=0.1" in (folder / "new" / "t.md").read_text()
    assert all(np.asarray(Image.open(name)).std() > 5 for name in ("curves.png", "classes.png"))
    html = (folder / "page.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert "panels need a run with checkpoints/best.ckpt, and none has it" in html


def test_pictures_that_cannot_be_made_leave_the_others_and_are_an_error(folder, compare):
    status, out, err = compare("runs", "--panel-figure", "panels.png", "--class-figure", "c.png", "--figure", "f.png")
    assert status == 1
    assert err.startswith("error: c.png: differences per class need two rows; name them by --between A B; panels.png: ")
    assert err.count("\n") == 1
    assert out.splitlines()[-1] == "f.png"
    assert not (folder / "panels.png").exists()


def test_two_runs_are_contrasted_by_themselves(folder, compare):
    _, out, _ = compare("runs/0", "runs/1")
    assert "A: row 1: lr=0.2\nB: row 2: lr=0.1" in out
    assert "A \N{MINUS SIGN} B" in out


def test_a_broken_run_is_one_line_below_the_table(folder, compare):
    (folder / "runs" / "1" / "summary.json").write_text("{")
    status, out, _ = compare("runs")
    assert status == 0
    assert "runs/1 is left out: " in out
    assert "0.300" in out


def test_rows_can_be_told_apart_by_less(folder, compare):
    status, out, _ = compare("runs", "--ignore", "lr")
    assert status == 0
    assert "0.200 ± 0.100 (3)" in out
    assert "several runs of seed 0" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "folder (=nowhere) must be a directory, which it is not; use outputs/<name>"),
        (["empty"], "folders (=empty) must hold a run directory, with a config.yaml; use outputs/<name>"),
        (["runs", "--metric", "val/miou"], "metric (=val/miou) must be one of the runs'"),
        (["runs", "--baseline", "4"], "row (=4) must be 1 to 3, or one of the run directories compared"),
        (["runs", "--between", "1", "x"], "row (=x) must be 1 to 3"),
        (["runs", "--ignore", "lr", "inti"], "ignore (=inti) must be a key of the runs; did you mean init?"),
        (["runs", "--ignore", "weights"], "ignore (=weights) must be a key of the runs; did you mean "),
        (["runs", "--ignore", "xyzzy"], "ignore (=xyzzy) must be a key of the runs; use a name that stands above"),
        (["runs", "--panels", "-1"], "--panels (=-1) must not be negative; use 0 for none"),
        (["runs", "--panels", "0", "--panel-figure", "p.png"], "p.png: --panels (=0) must be positive for a sheet"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder, compare, arguments, message):
    (folder / "empty").mkdir()
    status, _, err = compare(*arguments)
    assert status == 1
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_wrong_option_is_a_usage_error(compare):
    status, _, err = compare("runs", "--htlm", "x")
    assert status == 2
    assert err == "error: unrecognized arguments: --htlm x; --help lists the options\n"
