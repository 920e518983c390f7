"""`study=...`: the chapter's exercises as sweeps of one word."""

import json

import hydra
import pytest
from hydra import initialize_config_dir

from fcn import cli, runs
from fcn.config import flatten, to_container
from fcn.launch import compose
from tests.commands import TINY, type_in

SWEPT = {
    "init": {"model.init": ["bilinear", "xavier", "bilinear"], "seed": [0, 1, 2]},
    "hyperparameters": {"model.init": ["bilinear", "xavier"], "lr": [3e-4, 1e-3, 3e-3], "batch_size": [16, 32]},
    "skips": {"model.name": ["fcn32s", "fcn16s", "fcn8s"], "seed": [0, 1, 2]},
}


def test_all_studies_are_known():
    assert {path.stem for path in (cli.CONF / "study").glob("*.yaml")} == set(SWEPT)


@pytest.mark.parametrize("study", SWEPT)
def test_what_a_study_sweeps_over(study):
    cli.register()
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        params = hydra.compose("config", [f"study={study}"], return_hydra_config=True).hydra.sweeper.params
    for (key, expected), (override, values) in zip(SWEPT[study].items(), params.items(), strict=True):
        configs = [compose(f"{override}={value}") for value in values.split(",")]
        assert [flatten(to_container(config))[key] for config in configs] == expected
        assert len({str(config) for config in configs}) == len(configs)


def test_a_study_goes_with_a_preset():
    assert compose("experiment=d2l", "study=init").name == "d2l"


def test_a_study_is_a_sweep_that_ends_with_its_comparison(monkeypatch, capsys, tmp_path, shapes_root):
    """Narrowed to one job; -m is not needed."""
    monkeypatch.chdir(tmp_path)
    narrowed = ("model/init=frozen", "seed=1", f"data.root={shapes_root}", "trainer=cpu")
    status, out, err = type_in(monkeypatch, capsys, "study=init", *TINY, "epochs=1", *narrowed)
    assert status == 0, err
    (sweep,) = (tmp_path / "outputs" / "shapes").iterdir()
    assert sweep.name.startswith("init_")
    (run,) = (path for path in sweep.iterdir() if path.is_dir())
    config = runs.load_config(run)
    assert (config.model.upsample_trainable, config.seed) == (False, 1)
    assert {path.name for path in sweep.glob("comparison.*")} == {"comparison.md", "comparison.csv", "comparison.png"}
    score = json.loads((run / "summary.json").read_text())["metrics"]["val/mean_iou"]
    assert f"{score:.3f}" in (sweep / "comparison.md").read_text()
    assert f"{score:.3f}" in out
