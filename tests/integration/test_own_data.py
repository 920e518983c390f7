"""A folder of images and palette masks is checked, trained, evaluated and predicted without code."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.commands import load_command, type_in
from tests.voc_tree import noise, palette_mask, write_list

CLASSES = ["background", "big cat", "dog"]
PRESET = """# @package _global_
defaults:
  - override /data: voc
  - override /backbone: squeezenet1_0
name: mine
epochs: 1
batch_size: 2
data:
  root: mine
  classes: [background, big cat, dog]
  crop_size: [64, 64]
trainer: {accelerator: cpu, sample_images: 0}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Working directory with images of several sizes and two formats, and masks with two colours in their palette."""
    for name in ("JPEGImages", "SegmentationClass"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    for number, (height, width) in enumerate([(70, 90), (101, 64), (33, 50), (80, 80), (64, 95)]):
        image = Image.fromarray(noise(height, width, seed=number))
        image.save(tmp_path / "mine" / "JPEGImages" / f"photo_{number}.{'png' if number % 2 else 'jpg'}")
        mask = palette_mask(np.zeros((height, width)), [0, 0, 0, 200, 30, 30, 30, 30, 200])
        ImageDraw.Draw(mask).ellipse([5, 5, 30, 25], fill=1 + number % 2)
        mask.save(tmp_path / "mine" / "SegmentationClass" / f"photo_{number}.png")
    write_list(tmp_path / "mine", "train", "photo_0", "photo_1", "photo_2")
    write_list(tmp_path / "mine", "val", "photo_3", "photo_4")
    (tmp_path / "presets" / "experiment").mkdir(parents=True)
    (tmp_path / "presets" / "experiment" / "mine.yaml").write_text(PRESET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, capsys, *arguments: str, script: str | None = None) -> str:
    options = {} if script is None else {"script": load_command(script)}
    status, out, err = type_in(monkeypatch, capsys, *arguments, **options)
    assert status == 0, err
    return out


def test_own_images_from_check_to_prediction(folder, monkeypatch, capsys):
    classes = f"classes=[{','.join(CLASSES)}]"
    assert "all 5 pairs are valid" in run(monkeypatch, capsys, "root=mine", classes, script="prepare_voc")
    out = run(monkeypatch, capsys, "--config-dir", "presets", "experiment=mine")
    assert "voc: 3 training and 2 validation images, 3 classes, crops of 64x64" in out
    (run_dir,) = (folder / "outputs" / "mine").iterdir()
    assert "big cat" in run(monkeypatch, capsys, f"run={run_dir}", "worst=0", script="evaluate")
    evaluated = json.loads((run_dir / "evaluation" / "val" / "evaluation.json").read_text())
    summary = json.loads((run_dir / "summary.json").read_text())
    assert evaluated["scores"]["mean_iou"] == summary["metrics"]["val/mean_iou"]
    assert "val/iou/big cat" in (run_dir / "metrics.csv").read_text()
    run(monkeypatch, capsys, f"run={run_dir}", "input=mine/ImageSets/Segmentation/val.txt", script="predict")
    mask = Image.open(folder / "predictions" / "photo_4.png")
    assert mask.mode == "P"
    assert mask.size == Image.open("mine/JPEGImages/photo_4.jpg").size
    assert set(np.unique(mask)) <= {0, 1, 2}


def test_invalid_masks_are_reported_in_one_line(folder, monkeypatch, capsys):
    options = ("data=voc", "data.root=mine", "epochs=1", "batch_size=2", "data.cache=false", "trainer=cpu")
    status, _, err = type_in(monkeypatch, capsys, *options, "data.classes=[background,cat]", "data.crop_size=[64,64]")
    assert status == 1
    assert ".png (values 2) must " in err
    assert "data.classes" in err
    mask = folder / "mine" / "SegmentationClass" / "photo_0.png"
    Image.fromarray(np.asarray(Image.open(mask))).save(mask)  # a grey image without a palette
    status, out, _ = type_in(monkeypatch, capsys, "root=mine", script=load_command("prepare_voc"))
    assert status == 1
    assert "photo_0.png (mode L) must be a palette PNG" in out
    assert "data.mask_format=index" in out
