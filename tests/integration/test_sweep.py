"""`python train.py -m ...`: jobs side by side, in directories and in TensorBoard."""

import json
import os
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from fcn import config as configuration
from fcn import experiment, launch
from fcn.launch import job_names
from fcn.tensorboard import LAYOUT
from tests.commands import TINY, type_in, wait_for

SWEEP = ("model.init=bilinear,xavier", "lr=0.001,0.01")
JOBS = {
    "0_init-bilinear_lr-0.001": ("bilinear", 0.001),
    "1_init-bilinear_lr-0.01": ("bilinear", 0.01),
    "2_init-xavier_lr-0.001": ("xavier", 0.001),
    "3_init-xavier_lr-0.01": ("xavier", 0.01),
}


def summaries(sweep: Path) -> dict[str, dict]:
    """summary.json of every job, by the name of its directory; Hydra's own multirun.yaml lies beside them."""
    return {run.name: json.loads((run / "summary.json").read_text()) for run in sweep.iterdir() if run.is_dir()}


@pytest.fixture(scope="module")
def sweep(module_command):
    """Directory of a finished sweep of four jobs."""
    done = module_command("-m", *TINY, f"data.root={module_command.data}", "name=sweep", "epochs=1", *SWEEP)
    assert done.returncode == 0, done.stderr
    return module_command.run_of("sweep")


def test_four_jobs_are_four_run_directories_named_by_what_differs(sweep, module_command):
    assert set(summaries(sweep)) == set(JOBS)
    assert [path.name for path in (module_command.folder / "outputs").iterdir()] == ["sweep"]
    for name, (init, lr) in JOBS.items():
        config = configuration.load(sweep / name / "config.yaml")
        assert (config.model.init, config.lr) == (configuration.Init(init), lr)
        summary = json.loads((sweep / name / "summary.json").read_text())
        assert summary["status"] == "finished"
        assert {f"model.init={init}", f"lr={lr}"} <= set(summary["overrides"])


def test_a_job_of_a_sweep_is_the_run_alone(sweep, shapes_root, tmp_path):
    """Nothing of one job leaks into the next: the last one gives what it gives on its own."""
    alone = tmp_path / "run"
    own = ("epochs=1", "model.init=xavier", "lr=0.01", "trainer=cpu")
    experiment.train(launch.compose(*TINY, f"data.root={shapes_root}", *own), alone)
    in_sweep = summaries(sweep)["3_init-xavier_lr-0.01"]
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


def test_tensorboard_shows_the_runs_by_what_differs(tensorboard):
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
    """The layouts of all runs are one; a chart is found by its regular expressions, and none of them is idle."""
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
            assert bool(answer["tag_to_events"]) is not pattern.startswith("d2l/"), pattern
            shown += answer["tag_to_events"]
    assert sorted(shown) == sorted(get(f"{tensorboard}/plugin/scalars/tags")[run])


def test_the_hparams_tab_compares_the_varied_keys_with_the_final_metrics(tensorboard, sweep):
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
    assert len(groups) == 4
    shown = {}
    for group in groups:
        values = {
            value["name"]["tag"]: value["value"] for value in group["metricValues"] if not value["name"].get("group")
        }
        shown[group["hparams"]["model.init"], group["hparams"]["lr"]] = values["val/mean_iou"]
    assert set(shown) == set(JOBS.values())
    for name, job in JOBS.items():
        metrics = json.loads((sweep / name / "summary.json").read_text())["metrics"]
        assert shown[job] == pytest.approx(metrics["val/mean_iou"], rel=1e-6)


@pytest.mark.slow
def test_devices_may_differ_within_a_sweep(command):
    """One job in this process, one in two of its own; each alone in its directory, each on the whole global batch."""
    tiny = (*TINY, f"data.root={command.data}", "name=devices", "epochs=1")
    done = command("-m", *tiny, "trainer=ddp_cpu,cpu")
    assert done.returncode == 0, done.stderr
    sweep = command.run_of("devices")
    found = summaries(sweep)
    assert {name: summary["world_size"] for name, summary in found.items()} == {
        "0_trainer-ddp-cpu": 2,
        "1_trainer-cpu": 1,
    }
    assert all(summary["status"] == "finished" for summary in found.values())


def test_a_job_that_fails_does_not_stop_the_others(monkeypatch, capsys, tmp_path, shapes_root):
    monkeypatch.chdir(tmp_path)
    options = (*TINY, f"data.root={shapes_root}", "name=partly", "epochs=1", "schedule=constant", "trainer=cpu")
    status, _, err = type_in(monkeypatch, capsys, "-m", *options, "lr=1e30,0.01")
    assert status == 1
    failed, end = err.splitlines()
    assert failed.startswith("failed: 0_lr-1e+30: train/loss became ")
    assert end == "error: 1 of 2 jobs failed"
    (sweep,) = (tmp_path / "outputs" / "partly").iterdir()
    statuses = {name: summary["status"] for name, summary in summaries(sweep).items()}
    assert statuses == {"0_lr-1e+30": "failed", "1_lr-0.01": "finished"}


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ([["a.b=1", "c=x"], ["a.b=2", "c=x"]], ["0_b-1", "1_b-2"]),
        ([["a=1"]], ["0_a-1"]),
        ([["data.root=/some/where"], ["data.root=../else"]], ["0_root-some-where", "1_root-else"]),
        ([["data.crop_size=[1,2]"], ["data.crop_size=[3,4]"]], ["0_crop-size-1-2", "1_crop-size-3-4"]),
        ([["model/init=xavier"], ["~lr"]], ["0_init-xavier", "1_lr"]),
    ],
)
def test_job_names(overrides, names):
    assert job_names(overrides) == names


def test_long_job_names_are_cut_and_stay_apart():
    names = job_names([[f"name={'x' * 300}{number}"] for number in range(3)])
    assert all(len(name) <= 80 for name in names)
    assert len(set(names)) == 3
