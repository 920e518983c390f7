"""A folder of images and palette masks is checked, trained, evaluated and predicted without code."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import fcn
from tests.commands import load_command, type_in
from tests.pages import PAGES
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


def grey(indices: np.ndarray, mode: str) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint16) if mode == "I;16" else indices)
    return image if mode in ("L", "I;16") else image.convert(mode)


COLOURS = np.array([[0, 0, 0], [250, 50, 83], [36, 179, 83]], np.uint8)
INDEX = "data.mask_format=index"
FORMATS = {
    "8 bits": (INDEX, lambda indices: grey(indices, "L")),
    "16 bits": (INDEX, lambda indices: grey(indices, "I;16")),
    "grey and alpha": (INDEX, lambda indices: grey(indices, "LA")),
    "1 bit": (INDEX, lambda indices: Image.fromarray(indices > 0)),
    "0 and 255": (
        f"{INDEX} 'data.label_map={{255: 1}}'",
        lambda indices: Image.fromarray(np.array([0, 255, 2], np.uint8)[indices]),
    ),
    "coloured": (
        "data.mask_format=rgb 'data.colors=[[0,0,0],[250,50,83],[36,179,83]]'",
        lambda indices: Image.fromarray(COLOURS[indices]),
    ),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_masks_of_other_formats_are_read_with_the_keys_of_the_page(kind, folder, monkeypatch, capsys):
    keys, convert_mask = FORMATS[kind]
    assert f"`{keys}`" in PAGES["own_data.md"]
    pixels = np.zeros(3, int)
    for path in (folder / "mine" / "SegmentationClass").iterdir():
        indices = np.array(Image.open(path))
        convert_mask(indices).save(path)
        pixels += np.bincount(indices.ravel(), minlength=3)
    options = ["root=mine", "classes=[background,cat,dog]", *shlex.split(keys), "json=counts.json"]
    assert "all 5 pairs are valid" in run(monkeypatch, capsys, *options, script="prepare_voc")
    splits = json.loads(Path("counts.json").read_text())["splits"].values()
    counted = [
        sum(row["pixels"] for row in rows) for rows in zip(*(s["classes"].values() for s in splits), strict=True)
    ]
    expected = [pixels[0], pixels[1] + pixels[2], 0] if kind == "1 bit" else pixels.tolist()
    assert counted == expected


def test_folders_from_check_to_prediction(tmp_path, monkeypatch, capsys):
    """Grey masks with 255 for the object and images turned by their EXIF orientation, in two folders."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "masks"):
        Path("mine", name).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in range(12):
        Image.fromarray(noise(40, 50, seed=number)).save(f"mine/images/{number}.jpg", exif=exif)
        mask = Image.new("L", (50, 40))
        ImageDraw.Draw(mask).ellipse([5, 5, 30, 25], fill=255)
        mask.save(f"mine/masks/{number}.tif")
    data = ["data=folders", "data.root=mine", "data.mask_format=index", "data.val_fraction=0.4"]
    data.append("data.classes=[background,cat]")
    options = [
        "data.crop_size=[32,32]",
        "batch_size=2",
        "epochs=1",
        "trainer=cpu",
        "backbone=squeezenet1_0",
        "name=mine",
    ]
    status, _, err = type_in(monkeypatch, capsys, *data, *options)
    assert status == 1
    assert "if 255 stands for cat in the masks, use 'data.label_map={255: 1}'" in err
    assert type_in(monkeypatch, capsys, *data, script=load_command("prepare_voc"))[0] == 1
    shutil.rmtree("outputs")

    data.append("data.label_map={255: cat}")
    assert "all 12 pairs are valid" in run(monkeypatch, capsys, *data, script="prepare_voc")
    out = run(monkeypatch, capsys, *data, *options)
    (run_dir,) = Path("outputs/mine").iterdir()
    summary = json.loads((run_dir / "summary.json").read_text())
    lines = summary["warnings"]
    assert len(lines) == 2
    assert all("images of" in line and "have an EXIF orientation (3 in" in line for line in lines)
    assert all(
        f"warning  {line}" in out and f"warning  {line}" in (run_dir / "train.log").read_text() for line in lines
    )
    run(monkeypatch, capsys, f"run={run_dir}", "worst=0", script="evaluate")
    evaluated = json.loads((run_dir / "evaluation" / "val" / "evaluation.json").read_text())
    assert evaluated["scores"]["mean_iou"] == summary["metrics"]["val/mean_iou"]
    run(monkeypatch, capsys, f"run={run_dir}", "input=mine/images", script="predict")
    as_stored = fcn.load(run_dir).predict(Image.open("mine/images/3.jpg"))
    np.testing.assert_array_equal(np.array(Image.open("predictions/3.png")), as_stored)


def run_proposed_command(monkeypatch, capsys, *arguments: str) -> tuple[str, str]:
    """Run the command that prepare_voc.py proposes, as printed, for one epoch with random weights; both outputs."""
    printed = run(monkeypatch, capsys, *arguments, script="prepare_voc")
    program, script, *words = shlex.split(printed.splitlines()[-1])
    assert (program, script) == ("python", "train.py")
    short = ("epochs=1", "trainer=cpu", "trainer.sample_images=0", "backbone.weights=none")  # without a download
    return printed, run(monkeypatch, capsys, *words, *short)


def test_proposed_command_trains_in_the_layout_of_voc(folder, monkeypatch, capsys):
    (folder / "mine").rename("my photos")
    printed, out = run_proposed_command(
        monkeypatch, capsys, "root='my photos'", "classes=[background, 'big cat', dog]", "workers=1"
    )
    assert "images   3 of train, 2 of val, 0 in both\n" in printed
    assert "sizes    70x64 pixels in the median, heights 33 to 101, widths 50 to 90\n" in printed
    assert "voc: 3 training and 2 validation images, 3 classes, crops of 64x64" in out
    assert "1 epochs of 1 steps, 2 images per step" in out


@pytest.mark.slow
def test_proposed_command_trains_on_folders(folder, monkeypatch, capsys):
    """Masks are inverted grey values in a folder of another name; a third of the images validates."""
    for number in range(5, 12):
        Image.fromarray(noise(60, 70, seed=number)).save(folder / f"mine/JPEGImages/photo_{number}.jpg")
        mask = palette_mask(np.zeros((60, 70)))
        ImageDraw.Draw(mask).ellipse([5, 5, 30, 25], fill=1 + number % 2)
        mask.save(folder / f"mine/SegmentationClass/photo_{number}.png")
    shutil.rmtree(folder / "mine" / "ImageSets")
    (folder / "mine" / "my masks").mkdir()
    for path in (folder / "mine" / "SegmentationClass").iterdir():
        indices = np.array(Image.open(path))
        Image.fromarray(np.array([7, 255, 40], np.uint8)[indices]).save(folder / "mine" / "my masks" / path.name)
    keys = ["data=folders", "data.root=mine", "data.images=JPEGImages", "data.masks='my masks'"]
    keys += ["data.classes=[background,'it\\'s a cat',dog]", "data.mask_format=index", "data.val_fraction=0.34"]
    keys.append('data.label_map={7: 0, 255: "it\'s a cat", 40: dog}')
    printed, out = run_proposed_command(monkeypatch, capsys, *keys)
    num_train, num_val = re.search(r"images   (\d+) of train, (\d+) of val", printed).groups()
    assert int(num_train) + int(num_val) == 12
    assert f"folders: {num_train} training and {num_val} validation images, 3 classes, crops of " in out


@pytest.mark.slow
def test_proposed_command_trains_on_the_synthetic_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    keys = ("data=shapes", "data.shapes.num_train=20", "data.shapes.num_val=4")
    _, out = run_proposed_command(monkeypatch, capsys, *keys)
    assert "shapes: 20 training and 4 validation images, 6 classes, crops of 128x128" in out
