"""Every command of README and docs/ does what it says; `.ci/run` runs the README's first two as they stand."""

import copy
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from omegaconf import DictConfig, OmegaConf

from fcn import runs
from fcn.cli import hydra_entry
from fcn.config import Config, from_composed, typed
from fcn.data import shapes
from tests.commands import ROOT, TINY, load_command, type_in

README = (ROOT / "README.md").read_text()
# A few steps on one thread, without downloads.
SMALL = (*TINY, "epochs=1", "trainer=cpu", "trainer.sample_images=0", "backbone.weights=none", "data.num_workers=0")


PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}


def commands(text: str = README) -> set[str]:
    """Indented lines and inline code that start with a program."""
    program = r"(?:python|pip|tensorboard|torchrun) "
    blocks = re.findall(rf"^    ({program}.*)$", text, re.M)
    inline = re.findall(rf"`({program}[^`]*)`", text)
    return {*blocks, *inline, *re.findall(r"`(python train\.py)`", text)}


HERE = {  # run below, each with SMALL
    "python train.py model.init=xavier lr=0.01",
    "python train.py experiment=d2l data.root=data data.download=true",
    "python train.py experiment=voc_sample data.root=<folder that holds VOCdevkit>",
    "python train.py backbone=resnet50 optim=adamw schedule=poly",
    "python train.py model=fcn8s",
    "python train.py model.alignment=centered",
}
ELSEWHERE = {
    "pip install -e . && python train.py": ".ci/run",
    "python train.py data=voc data.root=<folder that holds VOCdevkit>": "test_own_data.py, with two keys more",
    'pip install -e ".[dev]" && pytest': ".ci/run",
    "python3 -m venv .venv && source .venv/bin/activate": ".ci/run",
    "tensorboard --logdir outputs": "test_sweep.py",
    "python train.py -m model.init=bilinear,xavier lr=0.001,0.01": "test_sweep.py",
    "python train.py --help": "test_command_line.py",
    "python train.py trainer=ddp_cpu": "distributed/test_ddp_cpu.py",
    "python train.py resume=outputs/<name>/<time>": "test_exactness.py",
    "python train.py experiment=d2l --cfg job": "below",
    "python train.py model=torchvision model.name=lraspp_mobilenet_v3_large": "test_networks.py",
    "python train.py trainer=ddp": "below",
    "python scripts/evaluate.py run=outputs/<name>/<time> split=val": "unit/scripts/test_evaluate.py",
    "python scripts/prepare_voc.py root=data download=true": "below",
    "python scripts/predict.py run=outputs/<name>/<time> input=photos": "unit/scripts/test_predict.py",
    "python scripts/upsample.py input=photo.jpg factor=2": "unit/scripts/test_upsample.py",
    "python scripts/export.py run=outputs/<name>/<time> format=onnx": "unit/test_exporting.py",
    "torchrun --nproc-per-node 8 -m fcn.worker outputs/<name>/<time>": "below",
    "python train.py": ".ci/run",
    "python train.py rerun=outputs/<name>/<time>": "test_rerun.py",
    "python train.py -m study=init": "test_studies.py, test_sweep.py",
    "python scripts/compare.py outputs/<name> --html comparison.html": "unit/scripts/test_compare.py",
    "python scripts/tune.py search=default trials=30": "unit/scripts/test_tune.py",
    "python train.py experiment=d2l execute=false": "test_clusters.py",
    "python train.py -m hydra/launcher=slurm lr=0.001,0.01": "test_clusters.py",
    "python train.py data=voc data.root=mine 'data.classes=[background,cat,dog]'": "test_own_data.py, test_tutorial.py",
    "python scripts/benchmark.py step data --json benchmarks.json": "unit/scripts/test_benchmark.py, below",
}


@pytest.fixture
def folder(tmp_path, shapes_root, monkeypatch) -> Path:
    """A folder to type in, where `data` holds a VOC tree: the drawn one, whose classes are VOC's first six."""
    drawn = shapes.ensure_shapes(shapes_root / "shapes", num_train=16, num_val=8, seed=0)
    (tmp_path / "data").symlink_to(drawn)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_is_known():
    assert commands() - HERE - set(ELSEWHERE) == set()
    assert HERE - commands() == set()


LARGE = "python train.py backbone=resnet50 optim=adamw schedule=poly"


@pytest.mark.parametrize("line", [*sorted(HERE - {LARGE}), pytest.param(LARGE, marks=pytest.mark.slow)])
def test_training(line, folder, monkeypatch, capsys):
    arguments = shlex.split(line.replace("<folder that holds VOCdevkit>", "data"))[2:]
    small = [option for option in SMALL if "lr=" not in option]
    status, out, err = type_in(monkeypatch, capsys, *arguments, *small)
    assert status == 0, err
    assert "val mIoU" in out.splitlines()[-1]
    finished = [json.loads(path.read_text())["status"] for path in folder.rglob("outputs/**/summary.json")]
    assert finished == ["finished"]


def lines_of(pages: Iterable[str], *, program: str) -> list[str]:
    """Every command of `pages` that runs `program`, each once, with x for what a reader fills in."""
    found = {re.sub("<[^>]*>", "x", line) for page in pages for line in commands(page)}
    return sorted(line for line in found if line.split()[1:2] == [program])


@functools.cache
def composed(config_name: str, schema: type, groups: tuple[str, ...]) -> DictConfig:
    """What Hydra composes from groups alone; it takes most of the time, and most commands have the same ones."""
    hydra_entry.register(schema)
    with initialize_config_dir(str(hydra_entry.CONF), version_base="1.3"):
        return hydra.compose(config_name, list(groups))


def first_value(override: Override) -> object:
    value = override.value()
    return value.list[0] if isinstance(value, ChoiceSweep) else value


def check(words: Sequence[str], *, config_name: str = "config", schema: type = Config) -> None:
    """Compose the key=value of a command, the first value of each sweep; Hydra's own settings are left to its tests."""
    typed_in = [word for word in words if "=" in word and not word.startswith(("hydra", "-"))]
    chosen = {str(one.key_or_group): first_value(one) for one in OverridesParser.create().parse_overrides(typed_in)}
    groups = tuple(f"{key}={value}" for key, value in chosen.items() if (hydra_entry.CONF / key).is_dir())
    config = copy.deepcopy(composed(config_name, schema, groups))
    for key, value in chosen.items():
        if not (hydra_entry.CONF / key).is_dir():
            OmegaConf.update(config, key, value)
    (from_composed if schema is Config else functools.partial(typed, schema=schema))(config)


@pytest.mark.parametrize("line", lines_of(PAGES.values(), program="train.py"))
def test_commands_of_the_pages_compose(line, tmp_path, monkeypatch, capsys):
    """Of all pages; what resume and rerun do is tested with runs."""
    if "--config-dir" not in line:
        check(shlex.split(line)[2:])
        return
    write_presets(tmp_path)
    monkeypatch.chdir(tmp_path)
    status, _, err = type_in(monkeypatch, capsys, *shlex.split(line)[2:], "--cfg", "job")
    assert status == 0, err


def write_presets(folder: Path) -> None:
    """The YAML of the pages, as files where its first line says."""
    for page in PAGES.values():
        for block in re.findall(r"```yaml\n(.*?)```", page, re.S):
            path = folder / block.split()[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.partition("\n")[2])


SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("[!_]*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_on_the_pages_take_their_arguments(name):
    """Two have an argument parser, the others are Hydra's; what they do is tested with runs."""
    script = load_command(name)
    lines = lines_of([README, *PAGES.values()], program=f"scripts/{name}.py")
    assert lines
    for line in lines:
        words = shlex.split(line)[2:]
        if hasattr(script, "parser"):
            script.parser().parse_args(words)
        else:
            check(words, config_name=name, schema=getattr(script, f"{name.partition('_')[0].capitalize()}Config"))


def test_the_benchmarks_of_the_pages_are_there():
    script = load_command("benchmark")
    for line in lines_of([README, *PAGES.values()], program="scripts/benchmark.py"):
        assert set(script.parser().parse_args(shlex.split(line)[2:]).what) <= set(script.NAMES), line


def test_no_page_is_forgotten():
    """Neither by the README, nor by the tests above, which read all pages there are."""
    assert {f"docs/{page}" for page in PAGES} <= set(re.findall(r"\]\(([^)]+)\)", README))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_and_blocks_are_python(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        assert "://" in target or (ROOT / "docs" / target).exists(), target
    for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.S):
        compile(block, page, "exec")


def test_the_configuration_of_the_chapter_can_be_looked_at(folder, monkeypatch, capsys):
    status, out, _ = type_in(monkeypatch, capsys, "experiment=d2l", "--cfg", "job")
    assert status == 0
    assert "protocol: d2l" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_all_gpus_where_there_are_none(folder, monkeypatch, capsys):
    status, _, err = type_in(monkeypatch, capsys, "trainer=ddp")
    assert status == 1
    assert "must be at most the GPUs that torch sees (=0); use trainer=cpu" in err


def test_prepare_voc(folder, monkeypatch, capsys):
    status, out, err = type_in(monkeypatch, capsys, "root=data", "download=true", script=load_command("prepare_voc"))
    assert status == 0, err
    assert "all 24 pairs are sound" in out


@pytest.mark.exhaustive
def test_torchrun_executes_a_run_directory(command):
    run = command.train("epochs=1", name="cluster")
    for name in ("summary.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv"):
        (run / name).unlink()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "fcn.worker",
            str(run),
        ],
        cwd=command.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert runs.read_summary(run)["world_size"] == 2


def test_the_python_example(folder, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    small = ", ".join(f'"{option}"' for option in SMALL)
    training, prediction = example.split("mask =")
    namespace: dict = {"image": np.zeros((40, 50, 3), np.uint8)}
    exec(training.replace('"epochs=1"', small), namespace)
    assert 0 <= namespace["metrics"]["val/mean_iou"] <= 1
    (run,) = (folder / "outputs" / "shapes").iterdir()
    exec("mask =" + prediction.replace("outputs/<name>/<time>", str(run)), namespace)
    assert namespace["mask"].shape == (40, 50)


UNLISTED = ("__init__.py", "__pycache__", "py.typed")


@pytest.mark.slow
def test_the_recipe_from_python(folder, capsys):
    (recipe,) = (
        block for block in re.findall(r"```python\n(.*?)```", PAGES["recipes.md"], re.S) if "compose(" in block
    )
    small = ", ".join(f'"{option}"' for option in SMALL)
    training, prediction = recipe.split("network =")
    namespace: dict = {"image": np.zeros((40, 50, 3), np.uint8)}
    exec(training.replace('"epochs=1"', small), namespace)
    (run,) = (folder / "outputs" / "notebook").iterdir()
    exec("network =" + prediction.replace("<run>", str(run)), namespace)
    assert namespace["mask"].shape == (40, 50)
    assert namespace["logits"].shape == (6, 40, 50)


def test_every_file_of_the_tree_is_there():
    (tree,) = re.findall(r"## The tree\n\n(.*?)\n\n", README, re.S)
    for line in tree.splitlines():
        name = line.split()[0]
        inside = "fcn/" if line.startswith("      ") else ""
        assert (ROOT / inside / name).exists(), name
    listed = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    found = {path.name for path in (ROOT / "fcn").iterdir() if path.name not in UNLISTED}
    assert found <= listed
