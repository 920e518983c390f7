"""What a user of scripts/prepare_voc.py relies on: a verdict on every pair, right statistics and status."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fcn.config import VOC_CLASSES
from fcn.data import voc

CHECKOUT = Path(__file__).resolve().parents[3]
SCRIPT = CHECKOUT / "scripts" / "prepare_voc.py"
SAMPLE = CHECKOUT / ".." / "shared" / "voc-sample"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_voc", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare_voc"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


prepare_voc = load_script()

MASKS = {
    "a": [[0, 0, 0, 1]],
    "b": [[0, 0, 2, 255]],
    "c": [[0, 1, 1, 1]],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of three 1 x 4 pairs: train has a and b, val has c."""
    tree = tmp_path / "root" / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tree / folder).mkdir(parents=True)
    for name, indices in MASKS.items():
        mask = Image.fromarray(np.array(indices, np.uint8)).convert("P")
        mask.putpalette(voc.color_map().tobytes())
        mask.save(tree / "SegmentationClass" / f"{name}.png")
        Image.new("RGB", (4, 1)).save(tree / "JPEGImages" / f"{name}.jpg")
    (tree / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\n")
    (tree / "ImageSets" / "Segmentation" / "val.txt").write_text("c\n")
    return tmp_path / "root"


def run(root: Path, *arguments: str) -> int:
    return int(prepare_voc.main([f"root={root}", "workers=2", "classes=[ground,cat,dog,cow]", *arguments]))


def test_statistics_are_those_counted_by_hand(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, f"json={tmp_path}/new/out.json") == 0
    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert written["problems"] == []
    train = written["splits"]["train"]
    assert (train["images"], train["void_pixels"], train["void_share"]) == (2, 1, 1 / 8)
    # Frequencies over the images that have the class: ground 5/7, cat 1/4, dog 1/3; their median is 1/3.
    expected = {
        "ground": {"images": 2, "pixels": 5, "share": 5 / 7, "weight": pytest.approx(7 / 15)},
        "cat": {"images": 1, "pixels": 1, "share": 1 / 7, "weight": pytest.approx(4 / 3)},
        "dog": {"images": 1, "pixels": 1, "share": 1 / 7, "weight": pytest.approx(1)},
        "cow": {"images": 0, "pixels": 0, "share": 0, "weight": None},
    }
    assert train["classes"] == expected
    assert written["splits"]["val"]["classes"]["cat"]["pixels"] == 3
    output = capsys.readouterr().out
    assert "train: 2 images, 12.50% of the pixels void" in output
    assert "all 3 pairs are sound" in output
    assert os.listdir(tmp_path / "new") == ["out.json"]


def test_all_problems_are_listed_and_the_rest_is_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = root / "VOCdevkit" / "VOC2012"
    (tree / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n../b\nb\nabsent\n")
    (tree / "JPEGImages" / "b.jpg").write_bytes(b"no image")
    (tree / "JPEGImages" / "c.jpg").unlink()
    assert run(root) == 1
    output = capsys.readouterr().out
    assert "train: 1 images" in output
    assert "4 of 5 pairs are not sound" in output
    for problem in (
        "train.txt line 2 (=../b) must be an image id",
        "b.jpg must be a readable image",
        "absent.jpg is absent",
        "val.txt line 1 (=c) must name a pair",
    ):
        assert problem in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["splits=[train,vall]"],
            r"error: split \(=vall\) must be a list in .*: train, val; did you mean val\?",
        ),
        (["splits=[]"], r"error: splits \(=\[\]\) must name a list; use splits=\[train,val\]"),
        (["workers=0"], r"error: workers \(=0\) must be at least 1"),
        (["workers=many"], r"error: .*many"),
        (["splits=[train"], r"error: "),
        (["rot=x"], r"error: rot=x must be key=value, the key one of .*; did you mean root\?"),
        (["root"], r"error: root must be key=value"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(root, *arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1

    assert re.match(message, captured.err)


def test_a_json_that_cannot_be_written_is_an_error_without_leftovers(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    assert run(root, f"json={tmp_path}/folder") == 1
    assert "error: json (=" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "root"]


def test_download_is_asked_for_only_with_its_key(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(voc, "download", asked.append)
    assert run(root) == 0
    assert asked == []
    assert run(root, "download=true") == 0
    assert asked == [root]


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare_voc.main(["--help"]) == 0
    output = capsys.readouterr().out
    for default in (
        "root=data",
        "download=false",
        "splits=[train,val]",
        "workers=null",
        "json=null",
        "classes=[",
    ):
        assert default in output


def test_as_a_command_it_ends_with_the_status_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), f"root={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: data.root (=")
    assert done.stderr.count("\n") == 1


@pytest.mark.realdata
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no genuine VOC sample beside the checkout")
def test_the_genuine_sample_is_sound(tmp_path: Path) -> None:
    assert prepare_voc.main([f"root={SAMPLE}", f"json={tmp_path}/out.json"]) == 0
    splits = json.loads((tmp_path / "out.json").read_text())["splits"]
    assert {name: split["images"] for name, split in splits.items()} == {"train": 180, "val": 60}
    assert list(splits["train"]["classes"]) == list(VOC_CLASSES)
    # Counted once more, without the project: every class is there, and the background leads.
    pixels = np.zeros(256, np.int64)
    tree = SAMPLE / "VOCdevkit" / "VOC2012"
    for name in (tree / "ImageSets" / "Segmentation" / "val.txt").read_text().split():
        pixels += np.bincount(np.asarray(Image.open(tree / "SegmentationClass" / f"{name}.png")).ravel(), minlength=256)
    found = splits["val"]
    assert [entry["pixels"] for entry in found["classes"].values()] == pixels[:21].tolist()
    assert found["void_pixels"] == pixels[255]
