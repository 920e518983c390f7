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
        path = make_run(tmp_path / "runs" / f"{number}", lr=lr, mean_iou=lr, data__root=str(tmp_path / "missing"),
                        data__name="voc")  # fmt: skip
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


def test_output_folder(folder, compare):
    status, out, err = compare("runs", "--between", 1, "runs/0", "--output", "new/out")
    assert (status, err) == (0, "")
    page, missing = out.splitlines()[-2:]
    assert page == "new/out/comparison.html"
    reason = "panels need a run with checkpoints/best.ckpt; compare runs that were validated"
    assert missing == f"predictions.png could not be drawn: {reason}"
    output = folder / "new" / "out"
    names = {"comparison.html", "comparison.md", "comparison.csv", "comparison.png", "class_differences.png"}
    assert {path.name for path in output.iterdir()} == names
    assert [row["lr"] for row in csv.DictReader((output / "comparison.csv").open())] == ["0.3", "0.2", "0.1"]
    assert "### A: row 1: lr=0.3; B: row 3: lr=0.1" in (output / "comparison.md").read_text()
    html = (output / "comparison.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert reason in html
    _, out, _ = compare("runs", "--output", "new/out", "--panels", 0)
    assert out.splitlines()[-1] == page
    assert "predictions" not in (output / "comparison.html").read_text()


def test_two_runs_are_contrasted_by_default(folder, compare):
    _, out, _ = compare("runs/0", "runs/1")
    assert "A: row 1: lr=0.2\nB: row 2: lr=0.1" in out
    assert "A \N{MINUS SIGN} B" in out


def test_unreadable_run_is_reported_below_the_table(folder, compare):
    (folder / "runs" / "1" / "summary.json").write_text("{")
    status, out, _ = compare("runs")
    assert status == 0
    assert "runs/1 is left out: " in out
    assert "0.300" in out


def test_ignored_keys_do_not_separate_rows(folder, compare):
    status, out, _ = compare("runs", "--ignore", "lr")
    assert status == 0
    assert "0.200 ± 0.100 (3)" in out
    assert "several runs of seed 0" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "folder (=nowhere) must be an existing directory; use outputs/<name>"),
        (["empty"], "folders (=empty) must hold a run directory, with a config.yaml; use outputs/<name>"),
        (["runs", "--metric", "val/miou"], "metric (=val/miou) must be one of the runs'"),
        (["runs", "--baseline", "4"], "row (=4) must be 1 to 3, or one of the compared run directories"),
        (["runs", "--between", "1", "x"], "row (=x) must be 1 to 3"),
        (["runs", "--ignore", "lr", "inti"], "ignore (=inti) must be a key of the runs; did you mean init?"),
        (["runs", "--ignore", "weights"], "ignore (=weights) must be a key of the runs; did you mean "),
        (["runs", "--ignore", "xyzzy"], "ignore (=xyzzy) must be a key of the runs; use a column heading, or"),
        (["runs", "--panels", "-1"], "--panels (=-1) must not be negative; use 0 for none"),
    ],
)
def test_invalid_input_is_a_one_line_error(folder, compare, arguments, message):
    (folder / "empty").mkdir()
    status, _, err = compare(*arguments)
    assert status == 1
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_unknown_option_is_a_usage_error(compare):
    status, _, err = compare("runs", "--htlm", "x")
    assert status == 2
    assert err == "error: unrecognized arguments: --htlm x; --help lists the options\n"
