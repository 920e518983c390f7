"""Options of the group logger: defaults, libraries that are not installed, saved runs."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from omegaconf import OmegaConf

import fcn
from fcn.config import ConfigError, read_config, to_container
from fcn.config.choices import WandbMode
from fcn.inference.predictor import load_network
from fcn.models.network import SegmentationNetwork


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
def test_library_that_is_not_installed_is_said_when_a_run_is_composed(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    message = rf'logger \(={library}\) needs the package {library}; use pip install -e "\.\[{library}\]"'
    with pytest.raises(ConfigError, match=message):
        fcn.compose(f"logger=[tensorboard,{library}]")


@pytest.mark.parametrize(
    ("override", "library"),
    [("logger=[wandb]", "wandb"), ("logger=[mlflow]", "mlflow"), ("callbacks=[device_stats]", "psutil")],
)
def test_saved_run_is_read_without_the_libraries_of_its_training(tmp_path, monkeypatch, override, library):
    monkeypatch.setitem(sys.modules, "psutil", ModuleType("psutil"))  # which no extra of this project installs
    sys.modules["psutil"].__spec__ = ModuleSpec("psutil", None)
    config = fcn.compose(override, "data=shapes", "backbone=squeezenet1_0", "backbone.weights=none")
    network = SegmentationNetwork(config)
    content = {"config": to_container(config), "state_dict": network.state_dict()}
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=library):
        fcn.compose(override)
    OmegaConf.save(OmegaConf.create(content["config"]), tmp_path / "config.yaml")
    torch.save(content, tmp_path / "last.ckpt")
    assert to_container(read_config(tmp_path / "config.yaml")) == content["config"]
    assert to_container(load_network(tmp_path / "last.ckpt").config) == content["config"]


def test_run_from_before_the_group_has_the_default(tmp_path):
    values = to_container(fcn.compose())
    del values["logger"]
    OmegaConf.save(OmegaConf.create(values), tmp_path / "config.yaml")
    assert list(read_config(tmp_path / "config.yaml").logger) == ["tensorboard"]
