"""Overrides and the configurations that they compose; invalid input is tested in test_bad_input.py."""

import re
import shlex
import subprocess
import sys

import pytest

import fcn
from fcn import config as configuration
from fcn.config import Config
from fcn.config.composition import CONF
from tests.commands import ROOT, type_in

D2L = {
    "data.name": "voc", "data.protocol": "d2l", "data.crop_size": [320, 480], "data.augmentation.flip": 0.0,
    "data.augmentation.scale": [1.0, 1.0], "backbone.name": "resnet18", "backbone.weights": "imagenet",
    "model.init": "bilinear", "loss.reduction": "image_sum", "optim.name": "sgd", "optim.momentum": 0.0,
    "optim.weight_decay": 1e-3, "optim.decay_all": True, "schedule.name": "constant", "lr": 1e-3, "batch_size": 32,
    "epochs": 5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"data.name": "shapes", "model.init": "bilinear", "backbone.name": "resnet18", "trainer.devices": None}),
        (["model.init=xavier", "lr=0.01"], {"model.init": "xavier", "lr": 0.01}),
        (["model/init=xavier"], {"model.init": "xavier"}),
        (["model/init=xavier", "model.init=bilinear"], {"model.init": "bilinear"}),
        (
            ["backbone=resnet50", "optim=adamw", "schedule=cosine", "schedule.warmup_steps=5"],
            {"backbone.name": "resnet50", "optim.name": "adamw", "schedule.name": "cosine", "lr": 1e-3},
        ),
        (["trainer=ddp_cpu"], {"trainer.accelerator": "cpu", "trainer.devices": 2}),
        (["trainer=ddp"], {"trainer.accelerator": "gpu", "trainer.devices": None}),
        (["loss=image_sum"], {"loss.reduction": "image_sum"}),
        (["data=voc", "data.root=x"], {"data.name": "voc", "name": "voc", "data.root": "x"}),
        (["experiment=d2l"], D2L),
        (["experiment=d2l", "model.init=xavier", "lr=0.1"], {"model.init": "xavier", "lr": 0.1, "batch_size": 32}),
    ],
)
def test_composition(overrides, expected):
    flat = configuration.flatten(configuration.to_container(fcn.compose(*overrides)))
    assert {key: flat[key] for key in expected} == expected


def test_every_option_of_every_group_composes():
    """Options of different groups are composed together: the first of each group, the second of each, and so on."""
    groups = {
        str(group): sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        for group in {path.parent.relative_to(CONF) for path in CONF.glob("*/**/*.yaml")}
        if group.parts[0] not in ("hydra", "experiment", "search")
    }
    for number in range(max(map(len, groups.values()))):
        fcn.compose(*(f"{group}={options[number % len(options)]}" for group, options in groups.items()))
    for preset in (CONF / "experiment").glob("*.yaml"):
        fcn.compose(f"experiment={preset.stem}")


def test_compose_raises_the_error_of_the_command():
    with pytest.raises(configuration.ConfigError, match="did you mean xavier"):
        fcn.compose("model.init=xaver")


def test_help_is_wrapped_on_a_terminal_only(monkeypatch, capsys):
    _, piped, _ = type_in(monkeypatch, capsys, "--help")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    _, wrapped, _ = type_in(monkeypatch, capsys, "--help")
    keys, _, _ = wrapped.partition("Keys: set with key=value\n")[2].partition("\n\n")
    assert 70 < max(map(len, keys.splitlines())) <= 80
    assert "".join(keys.split()) in "".join(piped.split())  # also words broken at hyphens
    assert all(re.search(rf"^{re.escape(key)} ", piped, re.M) for key in configuration.schema_fields(Config, {}))


def test_help_can_be_piped_into_head():
    line = f"{shlex.quote(sys.executable)} train.py --help | head -n 1"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_cfg_prints_the_configuration(fresh_command):
    done = fresh_command("--cfg", "job", "model.init=xavier", "steps=9")
    assert (done.returncode, done.stderr) == (0, "")
    assert "init: xavier" in done.stdout
    assert "epochs: null\nsteps: 9\n" in done.stdout
    assert not list(fresh_command.folder.iterdir())


def test_traceback_is_shown_only_with_hydra_full_error(fresh_command):
    quiet = fresh_command("lr=-1")
    loud = fresh_command("lr=-1", HYDRA_FULL_ERROR="1")
    assert quiet.returncode == loud.returncode == 1
    assert quiet.stderr == "error: lr (=-1.0) must be at least 0\n"
    assert "Traceback" in loud.stderr
