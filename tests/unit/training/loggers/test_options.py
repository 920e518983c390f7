"""Options of the group logger: defaults, libraries that are not installed, saved runs."""

import sys

import pytest
from omegaconf import OmegaConf

import fcn
from fcn.config import ConfigError, read_config, to_container
from fcn.config.choices import WandbMode


def test_tensorboard_is_the_default():
    assert list(fcn.compose().logger) == ["tensorboard"]
    assert fcn.compose("logger=[]").logger == {}
    assert list(fcn.compose("logger=csv").logger) == ["csv"]


def test_loggers_have_their_own_keys():
    config = fcn.compose("logger=[csv,wandb]", "logger.wandb.mode=offline", "logger.wandb.project=mine")
    assert list(config.logger) == ["csv", "wandb"]
    assert (config.logger["wandb"].mode, config.logger["wandb"].project) == (WandbMode.offline, "mine")
    with pytest.raises(ConfigError, match=r"logger.mlflow"):
        fcn.compose("logger=[wandb]", "logger.mlflow.experiment=mine")


@pytest.mark.parametrize("library", ["wandb", "mlflow"])
def test_library_that_is_not_installed_is_said_when_a_run_is_composed(tmp_path, monkeypatch, library):
    values = to_container(fcn.compose(f"logger=[{library}]"))
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    message = rf'logger \(={library}\) needs the package {library}; use pip install -e "\.\[{library}\]"'
    with pytest.raises(ConfigError, match=message):
        fcn.compose(f"logger=[tensorboard,{library}]")
    # Evaluation and comparison of the run need no logger.
    OmegaConf.save(OmegaConf.create(values), tmp_path / "config.yaml")
    assert list(read_config(tmp_path / "config.yaml").logger) == [library]


def test_run_from_before_the_group_has_the_default(tmp_path):
    values = to_container(fcn.compose())
    del values["logger"]
    OmegaConf.save(OmegaConf.create(values), tmp_path / "config.yaml")
    assert list(read_config(tmp_path / "config.yaml").logger) == ["tensorboard"]
