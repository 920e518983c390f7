"""scripts/benchmark.py: tables, files, and one-line errors for invalid options."""

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from tests.commands import ROOT, load_command, type_in

script = load_command("benchmark")


@pytest.fixture
def benchmark(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: type_in(monkeypatch, capsys, *map(str, arguments), "--device", "cpu", script=script)


def test_every_benchmark_has_its_function():
    for name, module in script.MODULES.items():
        assert callable(getattr(importlib.import_module(f"benchmarks.{module}"), f"measure_{name}"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stpe"], "unknown benchmark stpe; did you mean step?; known: step, overhead"),
        (["step", "--rounds", "0"], "--rounds (=0) must be at least 1"),
        (["step", "--batch-size", "-1"], "--batch-size (=-1) must be at least 1"),
        (["step", "--size", "160", "240"], "--size (=160 240) must be multiples of 32; use --size 320 480"),
        (["overhead", "--quick", "--set", "modl=1"], "unknown key modl; did you mean model?"),
        (["data", "--quick", "--data-root", "nowhere"], "must contain VOC2012"),
    ],
)
def test_invalid_option_is_a_one_line_error(benchmark, arguments, message):
    status, _, err = benchmark(*arguments)
    assert status == 1
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_device_cuda_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, _, err = type_in(monkeypatch, capsys, "step", "--device", "cuda", script=script)
    assert (status, err) == (1, "error: --device (=cuda) needs a GPU, and torch sees none; use --device cpu\n")


def test_results_are_printed_and_written(benchmark, tmp_path):
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
    assert len(written["results"]) == 4
    for result in written["results"]:
        rounds = result["ours"]["rounds"] + result["theirs"]["rounds"]
        assert len(rounds) == 4
        assert min(rounds) > 0
    assert "the sub-pixel form" in (tmp_path / "b.md").read_text()
    assert Image.open(tmp_path / "b.png").width > 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.md", "b.png", "new"]


def run_quickly(folder, *names):
    """Run benchmarks in a new process, and return the content of the JSON file."""
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *names, "--quick", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    process = subprocess.run([*command, "--json", "b.json"], **options)
    assert process.returncode == 0, process.stderr
    assert "GPU available" not in process.stderr
    return json.loads((folder / "b.json").read_text())


@pytest.mark.exhaustive
def test_benchmarks_in_one_process_run(tmp_path):
    written = run_quickly(tmp_path, *(name for name in script.NAMES if name not in ("start", "ddp")))
    assert len(written["results"]) >= 3 + 1 + 1 + 2 + 1 + 4
    assert all(min(result["ours"]["rounds"]) > 0 for result in written["results"])
    # The goals hold for larger batches.
    assert {result["goal"] for result in written["results"] if "step" in result["name"]} == {None}
    (breakdown,) = written["breakdown"]
    assert sum(value for _, value in breakdown["phases"]) == pytest.approx(breakdown["step_ms"])


@pytest.mark.exhaustive
def test_benchmarks_of_processes_run(tmp_path):
    *starts, ddp = run_quickly(tmp_path, "start", "ddp")["results"]
    assert len(starts) == 3
    assert min(result["ours"]["median"] for result in (*starts, ddp)) > 0
    assert "in a ring every process sends" in ddp["note"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_step_on_a_gpu(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = ("step", "breakdown", "roofline", "--quick", "--device", "cuda", "--json", "b.json")
    status, _, err = type_in(monkeypatch, capsys, *arguments, script=script)
    assert status == 0, err
    assert json.loads((tmp_path / "b.json").read_text())["machine"]["gpus"]
