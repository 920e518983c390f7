"""The commands of docs/tutorial.md and docs/own_data.md run in their order in an empty folder, on tiny datasets."""

import os
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from fcn.data import shapes
from tests.commands import TINY, load_command, type_in
from tests.pages import PAGES, TUTORIAL, indented_commands, presets
from tests.voc_tree import noise, palette_mask, write_list

COMMANDS = indented_commands(TUTORIAL)
OWN_DATA = PAGES["own_data.md"]
SMALL = (
    *(option for option in TINY if not option.startswith(("epochs", "batch_size"))),
    *("data.num_workers=0", "trainer.sample_images=0", "backbone=squeezenet1_0", "backbone.weights=none"),
    *("batch_size=2", "epochs=1"),
)
ELSEWHERE = {
    "python train.py -m model.init=bilinear,xavier seed=0,1,2": "test_sweep.py",
    "python train.py trainer=ddp_cpu": "distributed/test_ddp_cpu.py",
    'eval "$(python train.py -sc install=bash)"': "unit/cli/test_completion.py",
    "pip install -e .": ".ci/run",
    "git clone <address of this repository> fcn": "the reader's own",
    "cd fcn": "the reader's own",
    "python3 -m venv .venv": ".ci/run",
    "source .venv/bin/activate": ".ci/run",
    "tensorboard --logdir outputs": "test_sweep.py",
}


def test_every_command_of_the_tutorial_is_run():
    assert set(ELSEWHERE) <= set(COMMANDS)
    others = [line for line in COMMANDS if line not in ELSEWHERE]
    assert len(others) >= 15
    assert all(line.startswith(("python train.py", "python scripts/")) for line in others)


@pytest.fixture
def folder(tmp_path, shapes_root, monkeypatch) -> Path:
    """Working directory with what the reader provides: VOC in `data`, images and masks in `mine`, and photos."""
    drawn = shapes.ensure_shapes(shapes_root / "shapes", num_train=16, num_val=8, seed=0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "VOCdevkit").symlink_to(drawn / "VOCdevkit")
    for name in ("JPEGImages", "SegmentationClass"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    for number in range(10):
        image = Image.fromarray(noise(60 + number, 80))
        image.save(tmp_path / "mine" / "JPEGImages" / f"photo_{number}.jpg")
        mask = palette_mask(noise(60 + number, 80)[..., 0] % 3, [0, 0, 0, 200, 0, 0, 0, 200, 0])
        mask.save(tmp_path / "mine" / "SegmentationClass" / f"photo_{number}.png")
    write_list(tmp_path / "mine", "train", *(f"photo_{number}" for number in range(8)))
    write_list(tmp_path / "mine", "val", "photo_8", "photo_9")
    image.save(tmp_path / "photos" / "cat.jpg")
    write_pets(tmp_path / "pets")
    for path, text in {**presets(TUTORIAL), **presets(OWN_DATA)}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_pets(root: Path) -> None:
    """Write the dataset of docs/own_data.md: photos, and grey masks with a rectangle of a cat or a dog."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(20):
        Image.fromarray(noise(60 + number, 80, seed=number)).save(root / "images" / f"{number:04}.jpg")
        mask = Image.new("L", (80, 60 + number))
        mask.paste(1 + number % 2, (10, 10, 40, 30))
        mask.paste(255, (0, 50, 80, 52))
        mask.save(root / "masks" / f"{number:04}.png")


def filled_in(line: str) -> str:
    """Replace placeholders by the newest run and the folder of VOC, the dataset by the tiny one, two seeds by one."""
    line = line.replace("<folder that holds VOCdevkit>", "data").replace("v1-400-80-seed0", "v1-16-5-seed0")
    line = line.replace("seed=0,1", "seed=0")
    for name in re.findall(r"outputs/(\w+)/<time>", line):
        newest = max(path.name for path in Path("outputs", name).iterdir())
        line = line.replace(f"outputs/{name}/<time>", f"outputs/{name}/{newest}")
    return line


@pytest.mark.slow
def test_own_data_tutorial(folder, monkeypatch, capsys):
    lines = indented_commands(OWN_DATA)
    assert len(lines) == 9
    run_commands(lines, monkeypatch, capsys)
    assert (folder / "masks" / "cat.png").is_file()
    assert len([*(folder / "outputs" / "pets").rglob("export/model.pt2")]) == 1
    assert len([*(folder / "outputs" / "pets").rglob("evaluation/val/evaluation.json")]) == 2


def run_commands(lines: list[str], monkeypatch, capsys) -> None:
    """Run commands of a page one after the other, with small images and few steps."""
    for line in lines:
        program, *words = shlex.split(filled_in(line))
        assert program == "python"
        script = Path(words[0]).stem
        options = {} if script == "train" else {"script": load_command(script)}
        small = SMALL if script == "train" and "resume=" not in line else ()
        if "experiment=" in line or "data=voc" in line:
            small = [override for override in small if not override.startswith("data.shapes")]
        status, out, err = type_in(monkeypatch, capsys, *words[1:], *small, **options)
        assert status == 0, (line, err)
        if script == "train":
            is_sweep = "-m" in words
            assert "comparison.md" in out if is_sweep else "val mIoU" in out or "nothing to do" in out + err, line


@pytest.mark.slow
def test_the_tutorial(folder, monkeypatch, capsys):
    run_commands([line for line in COMMANDS if line not in ELSEWHERE], monkeypatch, capsys)
    (run,) = (folder / "outputs" / "d2l").iterdir()
    assert "protocol: d2l" in (run / "config.yaml").read_text()
    assert set(os.listdir(folder / "predictions")) >= {"val_00000.png", "val_00000_overlay.jpg", "classes.png"}
