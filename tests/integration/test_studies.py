"""`study=...`: the exercises of the d2l chapter as predefined sweeps."""

import hydra
import pytest
from hydra import initialize_config_dir
from hydra.types import RunMode

from fcn.config import Config, composition, flatten, to_container
from fcn.config.composition import compose

SWEPT = {
    "init": {"model.init": ["bilinear", "xavier", "bilinear"], "seed": [0, 1, 2]},
    "hyperparameters": {"model.init": ["bilinear", "xavier"], "lr": [3e-4, 1e-3, 3e-3], "batch_size": [16, 32]},
    "skips": {"model.name": ["fcn32s", "fcn16s", "fcn8s"], "seed": [0, 1, 2]},
}


def test_every_study_is_tested():
    assert {path.stem for path in (composition.CONF / "study").glob("*.yaml")} == set(SWEPT)


@pytest.mark.parametrize("study", SWEPT)
def test_study_sweeps_over_these_values(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # reading `sweep.dir` reserves a folder in outputs/
    composition.register_schema(Config)
    with initialize_config_dir(str(composition.CONF), version_base="1.3"):
        settings = hydra.compose("config", [f"study={study}"], return_hydra_config=True).hydra
    assert settings.mode is RunMode.MULTIRUN  # -m is not needed
    assert settings.sweep.dir.startswith(f"outputs/shapes/{study}_")
    params = settings.sweeper.params
    for (key, expected), (override, values) in zip(SWEPT[study].items(), params.items(), strict=True):
        configs = [compose(f"{override}={value}") for value in values.split(",")]
        assert [flatten(to_container(config))[key] for config in configs] == expected
        assert len({str(config) for config in configs}) == len(configs)


def test_study_can_be_combined_with_a_preset():
    assert compose("experiment=d2l", "study=init").name == "d2l"
