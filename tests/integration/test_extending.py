"""Components in files outside the package, as in docs/extending.md: composed, trained, resumed and loaded."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.commands import ROOT
from tests.forked import Forked
from tests.pages import PAGES, indented_commands, python_blocks

PAGE = PAGES["extending.md"]
FILES = {re.match(r"# (\S+\.py)\n", block)[1]: block for block in python_blocks(PAGE)}
BRACKETS = str.maketrans("", "", "[]'")
COMMANDS = [line for line in indented_commands(PAGE) if "train.py" in line]
COMBINED = next(line for line in COMMANDS if "," in line.split()[0])
SMALL = ["batch_size=4", "trainer.sample_images=0", "name=run"]
SHAPES = ["data.shapes.num_train=8", "data.shapes.num_val=2"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Working directory with the modules of the page."""
    for name, source in FILES.items():
        (tmp_path / name).write_text(source)
    write_table(tmp_path / "photos")
    return tmp_path


def write_table(root: Path) -> None:
    """Write the dataset of the page: eight images of a square, with a table."""
    root.mkdir()
    rows = ["image,mask,split"]
    for number in range(8):
        image = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        mask = np.zeros((40, 50), np.uint8)
        image[10:20, 10:30] = mask[10:20, 10:30] = 1 + number % 2
        Image.fromarray(image).save(root / f"{number}.jpg")
        Image.fromarray(mask).save(root / f"{number}_mask.png")
        rows.append(f"{number}.jpg,{number}_mask.png,{'train' if number < 6 else 'val'}")
    (root / "images.csv").write_text("\n".join(rows))


def run(folder: Path, *arguments: str, components: str = "", script: str = "train.py") -> subprocess.CompletedProcess:
    environment = {**os.environ, "FCN_COMPONENTS": components}
    process = Forked([sys.executable, str(ROOT / script), *arguments], cwd=folder, env=environment)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_every_file_of_the_page_is_used_by_a_command():
    assert set(FILES) == {f"{name}.py" for line in COMMANDS for name in line.split()[0].partition("=")[2].split(",")}


def train(folder: Path, line: str) -> Path:
    """Run a command of the page on a few images; return the run directory."""
    variable, _, _, *overrides = shlex.split(line)
    data = ["data.crop_size=[32,32]"] if "data=table" in overrides else SHAPES
    trained = run(folder, *overrides, *data, *SMALL, "epochs=1", components=variable.partition("=")[2])
    assert trained.returncode == 0, trained.stderr
    (run_dir,) = (folder / "outputs" / "run").iterdir()
    return run_dir


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[pytest.mark.exhaustive] if number < 6 else [])
        for number, line in enumerate(line for line in COMMANDS if line != COMBINED and " -m " not in line)
    ],
)
def test_component_of_the_page_trains_and_is_recorded(folder, line):
    components = json.loads((train(folder, line) / "summary.json").read_text())["components"]
    names = line.split()[0].partition("=")[2].split(",")
    assert len(components) == len(names)
    words = [word.translate(BRACKETS).partition("=") for word in line.split()]
    chosen = {f"{group}={name}" for group, _, value in words for name in value.split(",")}
    assert set(components) <= chosen
    assert {origin.split()[0] for origin in components.values()} == set(names)
    assert all(re.fullmatch(r"\w+ sha256:[0-9a-f]{12}", origin) for origin in components.values())


@pytest.mark.slow
def test_run_with_a_component_is_loaded_with_the_component_only(folder):
    run_dir, components, option = train(folder, COMBINED), "tversky,tiny_backbone", "backbone=tiny"
    origin = json.loads((run_dir / "summary.json").read_text())["components"][option]
    arguments = [f"run={run_dir.relative_to(folder)}", "worst=0"]
    evaluated = run(folder, *arguments, components=components, script="scripts/evaluate.py")
    assert evaluated.returncode == 0, evaluated.stderr
    for missing in (
        run(folder, *arguments, script="scripts/evaluate.py"),
        run(folder, f"resume={run_dir.relative_to(folder)}", "epochs=2"),
    ):
        assert missing.returncode == 1
        assert re.fullmatch(rf"error: .* needs {option} of {origin}; .*FCN_COMPONENTS.*\n", missing.stderr)


@pytest.mark.exhaustive
def test_sweep_over_a_component_and_a_built_in_option(folder):
    (line,) = (line for line in COMMANDS if " -m " in line)
    swept = run(folder, *shlex.split(line)[3:], *SHAPES, *SMALL, "epochs=1", components="tversky")
    assert swept.returncode == 0, swept.stderr
    assert len([*folder.glob("outputs/run/*/*/summary.json")]) == 2


# Without imports of large libraries, because the tests of invalid input compose only.
LOSS = """
import fcn
from fcn.config import LossConfig
@fcn.component("loss", "tversky")
class Tversky(LossConfig):
    \"\"\"Tversky.\"\"\"
    alpha: float = fcn.setting(0.5, "weight", low=0, high=1)
    def build(self, class_counts):
        raise NotImplementedError
"""
CALLBACKS = """
import fcn
from fcn.config import CallbackConfig
@fcn.component("callbacks", "first")
class First(CallbackConfig):
    \"\"\"First.\"\"\"
    patience: int = fcn.setting(3, "number of epochs", low=1)
    def build(self, config, run_dir):
        from pytorch_lightning import Callback
        return Callback()
@fcn.component("callbacks", "second")
class Second(First):
    \"\"\"Second.\"\"\"
"""


@pytest.mark.slow
def test_options_of_a_list_group_are_composed_with_their_keys(tmp_path):
    (tmp_path / "mine.py").write_text(CALLBACKS)

    def composed(*overrides: str) -> dict:
        printed = run(tmp_path, *overrides, "--cfg", "job", components="mine")
        assert printed.returncode == 0, printed.stderr
        return yaml.safe_load(printed.stdout)["callbacks"]

    assert composed() == composed("callbacks=[]") == {}
    both = composed("callbacks=[second,first]", "callbacks.first.patience=5")
    assert list(both.items()) == [("second", {"patience": 3}), ("first", {"patience": 5})]
    assert composed("callbacks=first") == {"first": {"patience": 3}}
    assert re.search(r"^callbacks: .*\bfirst\b.*\bsecond\b", run(tmp_path, "--help", components="mine").stdout, re.M)


def test_help_and_completion_list_components(folder):
    listed = run(folder, "loss=tversky", "--help", components="tversky").stdout
    assert re.search(r"^loss: .*\btversky\b", listed, re.M)
    assert re.search(r"^loss.alpha +0.5 +weight of false positives", listed, re.M)


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (None, [], r"FCN_COMPONENTS \(=mine\) must be a Python module on the path or in .*; check the name"),
        (
            "1 / 0",
            [],
            r"FCN_COMPONENTS \(=mine\) must be importable, but it raises ZeroDivisionError in .*mine.py:1: .*",
        ),
        (
            "import fcn\nfrom fcn.config import LossConfig\n@fcn.component('los', 'x')\nclass X(LossConfig): ...",
            [],
            r"FCN_COMPONENTS .* the group in @component\('los', 'x'\) must be one of .*; did you mean loss\?",
        ),
        (
            "import fcn\nfrom fcn.config import OptimConfig\n@fcn.component('optim', 'sgd')\nclass X(OptimConfig): ...",
            [],
            r"FCN_COMPONENTS .* optim=sgd of mine must have a new name, because fcn.training.\w+ defines it",
        ),
        (
            "import fcn\nfrom fcn.config import LossConfig\n@fcn.component('loss', 'x')\nclass X(LossConfig): ...",
            [],
            r"FCN_COMPONENTS .* loss=x of mine must define the method build",
        ),
        (
            "import fcn\nfrom fcn.config import LossConfig\n@fcn.component('loss', 'x')\nclass X(LossConfig):\n"
            "    alpha: float\n    def build(self, *_): ...",
            [],
            r"FCN_COMPONENTS .* loss=x of mine must have a default value for the key alpha; use .*",
        ),
        (LOSS, ["loss=tversky", "loss.alpha=2"], r"loss.alpha \(=2.0\) must be between 0 and 1"),
        (LOSS, ["loss.alpha=0.3"], r"loss.alpha has no effect .* or use loss=tversky"),
        (LOSS, ["loss=tversky", "loss.beta=1"], r"unknown key loss.beta.*"),
        (CALLBACKS, ["callbacks=[third]"], "unknown option third of callbacks; options: .*first.*second"),
        (CALLBACKS, ["callbacks.first.patience=2"], r"callbacks.first has no effect .* or use callbacks=\[first\]"),
        (CALLBACKS, ["callbacks=[first]", "callbacks.first.patience=0"], r"callbacks.first.patience \(=0\) must be .*"),
        (CALLBACKS, ["callbacks=[first]", "callbacks.first.wait=2"], r"unknown key callbacks.first.wait; .*"),
        (CALLBACKS, ["transforms=[x]"], r"transforms must be a list of registered options .*"),
    ],
)
def test_errors_are_one_line(tmp_path, source, arguments, message):
    if source is not None:
        (tmp_path / "mine.py").write_text(source)
    failed = run(tmp_path, *arguments, components="mine")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert re.fullmatch(f"error: {message}\n", failed.stderr)
    assert not (tmp_path / "outputs").exists()
