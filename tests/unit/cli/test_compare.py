"""The compare command: table, output folder and error messages."""

import csv

import pytest

from tests.commands import load_command, type_in
from tests.comparisons import make_evaluation, make_run, random_confusions

script = load_command("compare")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working directory with three rows of one run each, evaluated on the same images."""
    for number, lr in enumerate((0.1, 0.2, 0.3)):
        path = make_run(tmp_path / "runs" / f"{number}", lr=lr, mean_iou=lr)
        make_evaluation(path, random_confusions(5, seed=number))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def compare(monkeypatch, capsys):
    return lambda *arguments: type_in(monkeypatch, capsys, *map(str, arguments), script=script)


def test_default_prints_the_table_and_writes_no_files(folder, compare):
    status, out, err = compare("runs")
    assert (status, err) == (0, "")
    assert out.index("0.300") < out.index("0.200") < out.index("0.100")
    assert "baseline" in out
    assert [path.name for path in folder.iterdir()] == ["runs"]


def test_evaluations_of_other_splits_are_left_out_with_a_remark(folder, compare):
    make_evaluation(folder / "runs/0", random_confusions(7, seed=9), split="train")
    status, out, err = compare("--evaluations", "runs", "--output", "out")
    assert (status, err) == (0, "")
    remark = "left out: 1 evaluation on train, not val; use --split train for a comparison of those"
    assert remark in out
    assert remark in (folder / "out/comparison.md").read_text()
    assert len(list(csv.DictReader((folder / "out/comparison.csv").open()))) == 3


def test_output_folder(folder, compare):
    status, out, err = compare("runs", "--between", 1, "runs/0", "--output", "new/out")
    assert (status, err) == (0, "")
    page, missing = out.splitlines()[-2:]
    assert page == "new/out/comparison.html"
    assert missing.startswith("predictions.png could not be drawn: panels need a run with checkpoints/best.ckpt")
    assert [row["lr"] for row in csv.DictReader((folder / "new/out/comparison.csv").open())] == ["0.3", "0.2", "0.1"]
    assert "### A: row 1: lr=0.3; B: row 3: lr=0.1" in (folder / "new/out/comparison.md").read_text()
    _, out, _ = compare("runs", "--output", "new/out", "--panels", 0)
    assert out.splitlines()[-1] == page
    assert "predictions" not in (folder / page).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "folder (=nowhere) must"),
        (["runs", "--metric", "val/miou"], "metric (=val/miou) must"),
        (["runs", "--baseline", "4"], "row (=4) must"),
        (["runs", "--between", "1", "x"], "row (=x) must"),
        (["runs", "--ignore", "lr", "inti"], "ignore (=inti) must be a key of the runs; did you mean init?"),
        (["runs", "--panels", "-1"], "--panels (=-1) must"),
        (
            ["--evaluations", "runs", "--split", "vol"],
            "split (=vol) must be one of the evaluations'; did you mean val?",
        ),
    ],
)
def test_invalid_input_is_a_one_line_error(folder, compare, arguments, message):
    status, _, err = compare(*arguments)
    assert status == 1
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
