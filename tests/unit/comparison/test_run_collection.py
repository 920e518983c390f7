"""Which directories are runs, and what is made of those that cannot be read."""

import json

import pytest
from omegaconf import OmegaConf

from fcn.comparison.run_collection import BEST, SPEED, ComparisonError, collect, find_runs
from tests.comparisons import make_run


def test_runs_are_found_at_any_depth_and_each_once(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b" / "2026" / "0_lr-1")
    (first / ".hydra").mkdir()
    (first / ".hydra" / "config.yaml").write_text("seed: 0\ndata: {name: x}\n")
    (tmp_path / ".trash").mkdir()
    make_run(tmp_path / ".trash" / "c")
    runs, broken = collect([tmp_path, tmp_path / "b", second])
    assert [run.path for run in runs] == [first, second]
    assert not broken
    assert [run.path for run in collect([second])[0]] == [second]


def test_links_are_followed_and_each_real_directory_is_taken_once(tmp_path):
    first = make_run(tmp_path / "outputs" / "a")
    make_run(tmp_path / "scratch" / "0")
    for link, target in [("sweep", "scratch"), ("twin", "outputs/a"), ("sweep/up", "outputs"), ("gone", "nowhere")]:
        (tmp_path / "outputs" / link).symlink_to(tmp_path / target)
    found = [first, tmp_path / "outputs" / "sweep" / "0"]
    assert find_runs([tmp_path / "outputs"]) == found
    assert find_runs([tmp_path / "outputs", tmp_path]) == found
    assert find_runs([tmp_path / "outputs" / "twin"]) == [tmp_path / "outputs" / "twin"]


@pytest.mark.parametrize("status", ["finished", "interrupted", "failed", None])
def test_a_run_in_any_state_is_kept(tmp_path, status):
    make_run(tmp_path / "a", status=status, mean_iou=0.25)
    (run,), _ = collect([tmp_path])
    assert run.state == (status or "unfinished")
    assert run.finished == (status == "finished")
    assert run.config["model.init"] == "bilinear"
    if status:
        assert (run.metrics["val/mean_iou"], run.metrics[BEST], run.metrics[SPEED]) == (0.25, 0.26, 20.0)
    else:
        assert not run.metrics


def test_a_score_that_does_not_exist_is_nan(tmp_path):
    path = make_run(tmp_path / "a") / "summary.json"
    summary = json.loads(path.read_text())
    summary["metrics"]["val/iou/dog"] = None
    del summary["best"], summary["images_per_second"]
    path.write_text(json.dumps(summary))
    ((run,), _) = collect([tmp_path])
    assert run.finished
    assert all(run.metrics[name] != run.metrics[name] for name in ("val/iou/dog", BEST, SPEED))


def test_a_run_of_another_version_is_read(tmp_path):
    path = make_run(tmp_path / "a") / "config.yaml"
    config = OmegaConf.load(path)
    del config.optim, config.name
    config.model.depth = 7
    OmegaConf.save(config, path)
    ((run,), _) = collect([tmp_path])
    assert run.config["model.depth"] == 7
    assert run.config["optim.name"] == "adamw"
    assert "name" not in run.config


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "a: [1"),
        ("config.yaml", "- a"),
        ("config.yaml", ""),
        ("config.yaml", "lr: ${nothing}\nseed: 0\ndata: {name: x}"),
        ("config.yaml", "defaults: [data]"),
        ("summary.json", '{"status": "fin'),
        ("summary.json", "[]"),
        ("summary.json", '{"status": "finished"}'),
        ("summary.json", '{"status": "finished", "metrics": {"val/mean_iou": "high"}}'),
        ("summary.json", "\xff"),
    ],
)
def test_a_broken_run_is_named_in_one_line_and_the_others_stay(tmp_path, file, content):
    make_run(tmp_path / "sound")
    (make_run(tmp_path / "torn") / file).write_bytes(content.encode("latin-1"))
    runs, broken = collect([tmp_path])
    assert [run.path.name for run in runs] == ["sound"]
    ((path, problem),) = [(one.path, one.problem) for one in broken]
    assert path == tmp_path / "torn"
    assert problem
    assert "\n" not in problem


def test_nothing_to_compare_is_an_error(tmp_path):
    with pytest.raises(ComparisonError, match=r"folder \(=.*nowhere\) must be a directory"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(ComparisonError, match=r"folders \(=.*\) must hold a run directory, with a config.yaml; use"):
        collect([tmp_path])
    (make_run(tmp_path / "torn") / "summary.json").write_text("{")
    with pytest.raises(ComparisonError, match=r"torn cannot be read as a run: "):
        collect([tmp_path])
