"""Finding run directories and reading their files."""

import json

import pytest
from omegaconf import OmegaConf

from fcn.comparison.run_records import BEST, SPEED, ComparisonError, find_runs, read_runs
from tests.comparisons import make_run


def test_runs_are_found_at_any_depth_once(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b" / "2026" / "0_lr-1")
    (first / ".hydra").mkdir()
    (first / ".hydra" / "config.yaml").write_text("seed: 0\ndata: {name: x}\n")
    (tmp_path / ".trash").mkdir()
    make_run(tmp_path / ".trash" / "c")
    runs, unreadable = read_runs([tmp_path, tmp_path / "b", second])
    assert [run.path for run in runs] == [first, second]
    assert not unreadable
    assert [run.path for run in read_runs([second])[0]] == [second]


def test_links_are_followed_and_directories_visited_once(tmp_path):
    first = make_run(tmp_path / "outputs" / "a")
    make_run(tmp_path / "scratch" / "0")
    for link, target in [("sweep", "scratch"), ("twin", "outputs/a"), ("sweep/up", "outputs"), ("gone", "nowhere")]:
        (tmp_path / "outputs" / link).symlink_to(tmp_path / target)
    expected = [first, tmp_path / "outputs" / "sweep" / "0"]
    assert find_runs([tmp_path / "outputs"]) == expected
    assert find_runs([tmp_path / "outputs", tmp_path]) == expected
    assert find_runs([tmp_path / "outputs" / "twin"]) == [tmp_path / "outputs" / "twin"]


@pytest.mark.parametrize("status", ["finished", "interrupted", "failed", None])
def test_run_in_any_state_is_read(tmp_path, status):
    make_run(tmp_path / "a", status=status, mean_iou=0.25)
    (run,), _ = read_runs([tmp_path])
    assert run.state == (status or "unfinished")
    assert run.finished == (status == "finished")
    assert run.config["model.init"] == "bilinear"
    if status:
        assert (run.metrics["val/mean_iou"], run.metrics[BEST], run.metrics[SPEED]) == (0.25, 0.26, 20.0)
    else:
        assert not run.metrics


def test_undefined_score_is_nan(tmp_path):
    path = make_run(tmp_path / "a") / "summary.json"
    summary = json.loads(path.read_text())
    summary["metrics"]["val/iou/dog"] = None
    del summary["best"], summary["images_per_second"]
    path.write_text(json.dumps(summary))
    ((run,), _) = read_runs([tmp_path])
    assert run.finished
    assert all(run.metrics[name] != run.metrics[name] for name in ("val/iou/dog", BEST, SPEED))


def test_run_of_another_version_is_read(tmp_path):
    path = make_run(tmp_path / "a") / "config.yaml"
    config = OmegaConf.load(path)
    del config.optim, config.name
    config.model.depth = 7
    OmegaConf.save(config, path)
    ((run,), _) = read_runs([tmp_path])
    assert run.config["model.depth"] == 7
    assert run.config["optim.name"] == "adamw"
    assert "name" not in run.config


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "a: [1"),
        ("config.yaml", ""),
        ("config.yaml", "lr: ${nothing}\nseed: 0\ndata: {name: x}"),
        ("config.yaml", "defaults: [data]"),
        ("summary.json", '{"status": "fin'),
        ("summary.json", '{"status": "finished"}'),
        ("summary.json", '{"status": "finished", "metrics": {"val/mean_iou": "high"}}'),
        ("summary.json", "\xff"),
    ],
)
def test_unreadable_run_is_reported_and_the_others_are_read(tmp_path, file, content):
    make_run(tmp_path / "intact")
    (make_run(tmp_path / "damaged") / file).write_bytes(content.encode("latin-1"))
    runs, unreadable = read_runs([tmp_path])
    assert [run.path.name for run in runs] == ["intact"]
    ((path, problem),) = unreadable.items()
    assert path == tmp_path / "damaged"
    assert problem
    assert "\n" not in problem


def test_missing_folder_or_run_is_an_error(tmp_path):
    with pytest.raises(ComparisonError, match=r"folder \(=.*nowhere\) must be an existing directory"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(ComparisonError, match=r"folders \(=.*\) must hold a run directory, with a config.yaml; use"):
        read_runs([tmp_path])
    (make_run(tmp_path / "damaged") / "summary.json").write_text("{")
    with pytest.raises(ComparisonError, match=r"damaged cannot be read as a run: "):
        read_runs([tmp_path])
