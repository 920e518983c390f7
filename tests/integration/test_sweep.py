"""`python train.py -m ...`: concurrent jobs, their directories, and their display in TensorBoard."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path

import pytest

import fcn
from fcn import config as configuration
from fcn import runs
from fcn.config.choices import Init
from fcn.training.loggers.tensorboard import LAYOUT
from tests.commands import TINY, TINY_RUN, type_in, wait_for, workers_of
from tests.voc_tree import shapes_as_voc, truncate, write_list

SWEEP = ("model.init=bilinear,xavier", "lr=0.01")
JOBS = {"0_init-bilinear": ("bilinear", 0.01), "1_init-xavier": ("xavier", 0.01)}


def summaries(sweep: Path) -> dict[str, dict]:
    """summary.json of every job, by the name of its directory; Hydra's multirun.yaml is in the same folder."""
    return {run.name: json.loads((run / "summary.json").read_text()) for run in sweep.iterdir() if run.is_dir()}


@pytest.fixture(scope="module")
def sweep(module_command):
    """Directory of a finished sweep of two jobs."""
    options = (f"data.root={module_command.data}", "name=sweep", "epochs=1", "hydra.launcher.slots=2")
    done = module_command("-m", *TINY, *options, *SWEEP)
    assert done.returncode == 0, done.stderr
    return module_command.run_of("sweep")


def test_jobs_are_run_directories_named_by_their_varied_overrides(sweep, module_command):
    assert set(summaries(sweep)) == set(JOBS)
    assert [path.name for path in (module_command.folder / "outputs").iterdir()] == ["sweep"]
    for name, (init, lr) in JOBS.items():
        config = configuration.read_config(sweep / name / "config.yaml")
        assert (config.model.init, config.lr) == (Init(init), lr)
        summary = json.loads((sweep / name / "summary.json").read_text())
        assert summary["status"] == "finished"
        assert {f"model.init={init}", f"lr={lr}"} <= set(summary["overrides"])


def test_job_of_a_sweep_equals_a_single_run(sweep, shapes_root, tmp_path):
    """The metrics of the last job are bit-identical to those of a single run."""
    alone = tmp_path / "run"
    own = ("epochs=1", "model.init=xavier", "lr=0.01", "trainer=cpu")
    fcn.train(fcn.compose(*TINY, f"data.root={shapes_root}", *own), alone)
    in_sweep = summaries(sweep)["1_init-xavier"]
    assert in_sweep["metrics"] == json.loads((alone / "summary.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def tensorboard(sweep):
    """Address of TensorBoard's own server on the folder of the sweep."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", sweep, "--port", str(port), "--host", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": ""},
    )
    address = f"http://127.0.0.1:{port}/data"

    def answers() -> bool:
        try:
            return len(get(f"{address}/runs")) == len(JOBS)
        except OSError:
            return False

    try:
        wait_for(answers, process=None)
        yield address
    finally:
        server.terminate()
        server.wait()


def get(url: str, body: object = None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_tensorboard_names_runs_by_job(tensorboard):
    assert set(get(f"{tensorboard}/runs")) == set(JOBS)


def test_tensorboard_has_every_scalar_of_every_run(tensorboard, sweep):
    tags = get(f"{tensorboard}/plugin/scalars/tags")
    for name in JOBS:
        metrics = json.loads((sweep / name / "summary.json").read_text())["metrics"]
        assert set(metrics) <= set(tags[name])
        query = urllib.parse.urlencode({"run": name, "tag": "val/mean_iou"})
        ((_, step, value),) = get(f"{tensorboard}/plugin/scalars/scalars?{query}")
        assert step == 2
        assert value == pytest.approx(metrics["val/mean_iou"], rel=1e-6)


def test_tensorboard_has_the_pictures(tensorboard):
    tags = get(f"{tensorboard}/plugin/images/tags")
    for name in JOBS:
        assert set(tags[name]) == {"val/samples", "val/confusion_matrix", "upsampling/kernels"}
        query = urllib.parse.urlencode({"run": name, "tag": "upsampling/kernels", "sample": 0})
        (picture,) = get(f"{tensorboard}/plugin/images/images?{query}")
        assert picture["step"] == 2


def test_custom_scalars_shows_every_scalar_in_one_chart(tensorboard):
    """All runs have the same layout; the tags of a chart match a scalar, except those of d2l and of GPUs."""
    layout = get(f"{tensorboard}/plugin/custom_scalars/layout")
    titles = {category["title"]: [chart["title"] for chart in category["chart"]] for category in layout["category"]}
    assert titles == {category: list(charts) for category, charts in LAYOUT.items()}
    charts = [chart for category in layout["category"] for chart in category["chart"]]
    (run, *_) = JOBS
    shown: list[str] = []
    for chart in charts:
        for pattern in chart["multiline"]["tag"]:
            query = urllib.parse.urlencode({"run": run, "tag": pattern})
            answer = get(f"{tensorboard}/plugin/custom_scalars/scalars?{query}")
            assert answer["regex_valid"]
            assert bool(answer["tag_to_events"]) is not pattern.startswith(("d2l/", "mfu")), pattern
            shown += answer["tag_to_events"]
    assert sorted(shown) == sorted(get(f"{tensorboard}/plugin/scalars/tags")[run])


def test_hparams_tab_has_varied_keys_and_final_metrics(tensorboard, sweep):
    experiment = get(f"{tensorboard}/plugin/hparams/experiment", {})
    columns = {info["name"]: info for info in experiment["hparamInfos"]}
    assert {"model.init", "lr"} <= set(columns)
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert {"val/mean_iou", "best/mean_iou"} <= set(metrics)
    assert "hp_metric" not in metrics
    request = {
        "colParams": [{"metric": info["name"]} for info in experiment["metricInfos"]],
        "allowedStatuses": ["STATUS_SUCCESS"],
        "sliceSize": 100,
    }
    groups = get(f"{tensorboard}/plugin/hparams/session_groups", request)["sessionGroups"]
    assert len(groups) == len(JOBS)
    displayed = {}
    for group in groups:
        values = {
            value["name"]["tag"]: value["value"] for value in group["metricValues"] if not value["name"].get("group")
        }
        displayed[group["hparams"]["model.init"], group["hparams"]["lr"]] = values["val/mean_iou"]
    assert set(displayed) == set(JOBS.values())
    for name, job in JOBS.items():
        metrics = json.loads((sweep / name / "summary.json").read_text())["metrics"]
        assert displayed[job] == pytest.approx(metrics["val/mean_iou"], rel=1e-6)


@pytest.mark.exhaustive
def test_jobs_of_a_sweep_may_have_different_numbers_of_processes(command):
    tiny = (*TINY, f"data.root={command.data}", "name=devices", "epochs=1")
    done = command("-m", *tiny, "trainer=ddp_cpu,cpu")
    assert done.returncode == 0, done.stderr
    sweep = command.run_of("devices")
    by_name = summaries(sweep)
    assert {name: summary["world_size"] for name, summary in by_name.items()} == {
        "0_trainer-ddp-cpu": 2,
        "1_trainer-cpu": 1,
    }
    assert all(summary["status"] == "finished" for summary in by_name.values())


@pytest.fixture
def extend(sweep, module_command, monkeypatch, capsys, tmp_path):
    """Execute a sweep in a copy of the finished one; return status, output, errors and the folder."""

    def run(*swept):
        folder = shutil.copytree(sweep, tmp_path / "outputs" / "copy")
        monkeypatch.chdir(tmp_path)
        options = (*TINY, f"data.root={module_command.data}", "name=sweep", "epochs=1", "hydra.sweep.dir=outputs/copy")
        multirun = () if swept[0].startswith("study=") else ("-m",)  # a study is one without it
        return *type_in(monkeypatch, capsys, *multirun, *options, *swept), folder

    return run


@pytest.mark.exhaustive
def test_sweep_is_extended_and_continues_after_a_failed_job(extend):
    """One job must fail; the other exists already under another number."""
    status, _, err, folder = extend("model.init=xavier", "lr=1e30,0.01")
    assert status == 1
    failed, end = err.splitlines()
    assert failed.startswith("failed: 0_lr-1e+30: train/loss became ")
    assert end == "error: 1 of 2 jobs failed; continue with resume=outputs/copy"
    statuses = {name: summary["status"] for name, summary in summaries(folder).items()}
    assert statuses == dict.fromkeys(JOBS, "finished") | {"0_lr-1e+30": "failed"}
    assert json.loads((folder / "sweep.json").read_text())["jobs"] == [*JOBS, "0_lr-1e+30"]


def test_study_skips_finished_jobs_and_ends_with_a_comparison(extend):
    """The study is reduced to two existing jobs, so that nothing is trained."""
    before = datetime.now()
    status, out, err, folder = extend("study=init", "model/init=bilinear,xavier", "seed=0", "lr=0.01")
    assert (status, err) == (0, "")
    assert "2 jobs, 2 of them finished already" in out
    assert all(datetime.fromtimestamp((folder / name / "console.log").stat().st_mtime) < before for name in JOBS)
    scores = [summaries(folder)[name]["metrics"]["val/mean_iou"] for name, job in JOBS.items() if job[1] == 0.01]
    table = (folder / "comparison.md").read_text()
    assert all(f"{score:.3f}" in table and f"{score:.3f}" in out for score in scores)
    assert {path.name for path in folder.glob("comparison.*")} == {"comparison.md", "comparison.csv", "comparison.png"}
    assert list(folder.parent.iterdir()) == [folder]


def test_invalid_job_is_an_error_before_any_job_is_executed(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, _, err = type_in(monkeypatch, capsys, "-m", "lr=0.1,-1", "name=wrong")
    assert status == 1
    assert err == "error: lr (=-1.0) must be at least 0\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.exhaustive
def test_sweep_of_two_process_jobs_is_resumed_after_sigkill_and_reports_failing_ranks(command):
    """Two of 2 x 2 jobs must fail, in rank 1 only, which reads the second validation image."""
    # Without a cache, which would detect the broken image before the first step.
    tree, data = shapes_as_voc(command.folder / "voc")
    images = (tree / "ImageSets/Segmentation/val.txt").read_text().split()
    write_list(tree, "sound", images[0], *images[2:])
    truncate(tree / f"JPEGImages/{images[1]}.jpg")
    swept = ("model.init=bilinear,xavier", "data.val_split=sound,val", "trainer=ddp_cpu", "epochs=1")
    process = command.start("-m", *TINY_RUN, *data, "name=two", *swept)
    folder = command.folder / "outputs" / "two"
    wait_for(lambda: list(folder.glob("*/0_*/metrics.csv")), process=process)
    wait_for(lambda: list(folder.glob(f"*/1_*/{runs.CONSOLE}")))
    process.kill()
    process.wait()
    (sweep,) = folder.iterdir()
    wait_for(lambda: not workers_of(sweep), seconds=60)
    names = json.loads((sweep / "sweep.json").read_text())["jobs"]
    assert [name[0] for name in names] == ["0", "1", "2", "3"]
    assert [runs.read_status(sweep / name).value for name in names] == ["finished", *["unfinished"] * 3]
    first_summary = runs.read_summary(sweep / names[0])

    done = command(f"resume={sweep}")
    assert done.returncode == 1
    assert "4 jobs, 1 of them finished already" in done.stdout
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert [line.split()[1] for line in failed] == ["1_init-bilinear_val-split-val:", "3_init-xavier_val-split-val:"]
    assert all("rank 1 failed: DataError: " in line for line in failed)
    assert done.stderr.splitlines()[-1].startswith("error: 2 of 4 jobs failed; continue with resume=")
    assert not workers_of(sweep)
    assert {path.name for path in sweep.iterdir() if path.is_dir()} == set(names)
    assert [path.name for path in (command.folder / "outputs").iterdir()] == ["two"]
    for number, name in enumerate(names):
        config = configuration.read_config(sweep / name / "config.yaml")
        assert config.model.init == ("bilinear", "bilinear", "xavier", "xavier")[number]
        assert config.data.val_split == ("sound", "val")[number % 2]
        assert (sweep / name / "failure.txt").exists() is bool(number % 2)
        if number % 2 == 0:  # exactly once: every epoch has one row
            assert [row["epoch"] for row in runs.read_metrics(sweep / name)] == ["0"]
    assert runs.read_summary(sweep / names[0]) == first_summary
