"""What a user of scripts/benchmark.py relies on: tables, files, and mistakes in one line."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from benchmarks.everything import BENCHMARKS
from benchmarks.results import Findings
from tests.commands import ROOT, load_command, type_in

script = load_command("benchmark")


@pytest.fixture
def benchmark(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: type_in(monkeypatch, capsys, *map(str, arguments), "--device", "cpu", script=script)


def test_names_for_the_help_are_those_of_the_benchmarks():
    assert tuple(BENCHMARKS) == script.NAMES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stpe"], "stpe is no benchmark; did you mean step?; known: step, overhead"),
        (["step", "--rounds", "0"], "--rounds (=0) must be at least 1"),
        (["step", "--batch-size", "-1"], "--batch-size (=-1) must be at least 1"),
        (["step", "--size", "160", "240"], "--size (=160 240) must be multiples of 32; use --size 320 480"),
        (["overhead", "--quick", "--set", "modl=1"], "unknown key modl; did you mean model?"),
        (["data", "--quick", "--data-root", "nowhere"], "must hold VOC2012"),
    ],
)
def test_mistakes_are_one_line(benchmark, arguments, message):
    status, _, err = benchmark(*arguments)
    assert status == 1
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_gpu_must_be_there(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, _, err = type_in(monkeypatch, capsys, "step", "--device", "cuda", script=script)
    assert (status, err) == (1, "error: --device (=cuda) needs a GPU, and torch sees none; use --device cpu\n")


def test_what_is_measured_is_printed_and_written(benchmark, tmp_path):
    files = ["--json", "new/b.json", "--markdown", "b.md", "--plot", "b.png"]
    status, out, err = benchmark("upsampling", "--quick", "--rounds", 2, *files)
    assert (status, err) == (0, "")
    assert out.splitlines()[-3:] == ["new/b.json", "b.md", "b.png"]
    assert "upsampling by 32, 2 x 2x2" in out
    written = json.loads((tmp_path / "new" / "b.json").read_text())
    assert written["command"].endswith(f"upsampling --quick --rounds 2 {' '.join(files)} --device cpu")
    assert {"machine", "commit", "dirty", "versions"} < set(written)
    assert written["machine"]["threads"] >= 1
    assert written["machine"]["load_before"] >= 0
    findings = Findings.from_json(written)
    assert len(findings.results) == 4
    assert all(len(result.ours.rounds) == len(result.theirs.rounds) == 2 for result in findings.results)
    assert all(min(result.ours.rounds + result.theirs.rounds) > 0 for result in findings.results)
    assert "the sub-pixel form" in (tmp_path / "b.md").read_text()
    assert Image.open(tmp_path / "b.png").width > 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.md", "b.png", "new"]


@pytest.mark.exhaustive
def test_every_benchmark_of_one_process_runs(tmp_path):
    names = [name for name in script.NAMES if name not in ("start", "ddp")]
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *names, "--quick", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--json", "b.json"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = Findings.from_json(json.loads((tmp_path / "b.json").read_text()))
    assert len(found.results) >= 3 + 1 + 1 + 2 + 1 + 4
    assert all(min(result.ours.rounds) > 0 for result in found.results)
    assert {result.goal for result in found.results if "step" in result.name} == {None}  # not as large as promised
    (breakdown,) = found.breakdowns
    assert sum(value for _, value in breakdown.phases) == pytest.approx(breakdown.step_ms)


@pytest.mark.exhaustive
def test_benchmarks_of_processes_run(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "ddp", "--quick", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--json", "b.json"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (result,) = Findings.from_json(json.loads((tmp_path / "b.json").read_text())).results
    assert result.ours.median > 0
    assert "in a ring every process sends" in result.note


@pytest.mark.gpu
def test_a_step_on_a_gpu(monkeypatch, capsys, tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.chdir(tmp_path)
    arguments = ("step", "breakdown", "roofline", "--quick", "--device", "cuda", "--json", "b.json")
    status, _, err = type_in(monkeypatch, capsys, *arguments, script=script)
    assert status == 0, err
    assert json.loads((tmp_path / "b.json").read_text())["machine"]["gpus"]
