"""scripts/prepare_voc.py: verdict on every pair, statistics and exit status."""

import hashlib
import io
import json
import os
import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import SBDataset

import fcn
from fcn.config import VOC_CLASSES
from fcn.data import download
from tests import commands
from tests.commands import load_command
from tests.voc_tree import make_voc_tree, noise

CHECKOUT = Path(__file__).resolve().parents[3]
SAMPLE = CHECKOUT / ".." / "shared" / "voc-sample"


prepare_voc = load_command("prepare_voc")

MASKS = {
    "a": [[0, 0, 0, 1]],
    "b": [[0, 0, 2, 255]],
    "c": [[0, 1, 1, 1]],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of three 1 x 4 pairs: train has a and b, val has c."""
    make_voc_tree(tmp_path / "root", MASKS, {"train": "ab", "val": "c"})
    return tmp_path / "root"


@pytest.fixture
def run(monkeypatch, capsys):
    """Exit status of the command with these arguments, its output and its errors."""

    def type_in(root: Path, *arguments: str) -> tuple[int, str, str]:
        own = (f"root={root}", "workers=2", "classes=[ground,cat,dog,cow]")
        return commands.type_in(monkeypatch, capsys, *own, *arguments, script=prepare_voc)

    return type_in


def test_statistics_are_those_counted_by_hand(root, tmp_path, run):
    status, output, _ = run(root, f"json={tmp_path}/new/out.json")
    assert status == 0
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
    assert "train: 2 images, 12.50% of the pixels void" in output
    assert "all 3 pairs are valid" in output
    assert os.listdir(tmp_path / "new") == ["out.json"]


def test_all_problems_are_listed_and_valid_pairs_are_counted(root, run):
    tree = root / "VOCdevkit" / "VOC2012"
    (tree / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n../b\nb\nabsent\n")
    (tree / "JPEGImages" / "b.jpg").write_bytes(b"no image")
    (tree / "JPEGImages" / "c.jpg").unlink()
    status, output, _ = run(root)
    assert status == 1
    assert "train: 1 images" in output
    assert "4 of 5 pairs are invalid" in output
    for problem in (
        "train.txt line 2 (=../b) must be an image id",
        "b.jpg must be a readable image",
        "absent.jpg is missing",
        "val.txt line 1 (=c) must name an image and a mask",
    ):
        assert problem in output


def test_what_may_mislead_is_printed_and_written(tmp_path, run):
    masks = {"a": [[0, 1, 2, 3]], "b": [[0, 1, 2, 3]], "same": [[0, 1, 3]], "other": [[0, 1, 2, 3]]}
    pixels = {name: noise(1, len(mask[0]), seed=number) for number, (name, mask) in enumerate(masks.items())}
    pixels["other"] = pixels["a"]
    make_voc_tree(tmp_path / "root", masks, {"train": ["a", "b", "same"], "val": ["same", "other"]}, images=pixels)
    status, output, _ = run(tmp_path / "root", f"json={tmp_path}/out.json")
    assert status == 0
    (line,) = json.loads((tmp_path / "out.json").read_text())["warnings"]
    assert line.startswith("train and val must have different images, but 2 are in both: a (as other), same; ")
    assert f"warning: {line}\nall 5 pairs are valid\n" in output


def test_masks_of_0_and_255_are_a_problem(tmp_path, run):
    make_voc_tree(tmp_path / "root", {"a": [[0, 255]], "b": [[0, 1]]}, {"train": "a", "val": "b"})
    status, output, _ = run(tmp_path / "root")
    assert status == 1
    assert "the masks of train must contain a class other than ground" in output
    assert "'data.label_map={255: 1}'" in output
    status, output, _ = run(tmp_path / "root", "data.label_map={255: cat}", "splits=[train]")
    assert status == 0


def test_folders_are_checked_with_the_keys_of_training(tmp_path, monkeypatch, capsys):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(20):
        Image.fromarray(noise(4, 6, seed=number)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.kron([[0, 10], [20, 10]], np.ones((2, 3))).astype(np.uint8)).save(
            tmp_path / f"labels/{number}.tif"
        )
    keys = ("data=folders", f"data.root={tmp_path}", "data.masks=labels", "data.classes=[ground,cat,dog]")
    keys = (*keys, "data.mask_format=index", "data.label_map={10: cat, 20: dog}", "data.val_fraction=0.4")
    status, output, _ = commands.type_in(monkeypatch, capsys, *keys, script=prepare_voc)
    assert status == 0, output
    assert "all 20 pairs are valid" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["splits=[train,vall]"], r"error: split \(=vall\) must be a list in .*; did you mean val\?"),
        (["splits=[]"], r"error: splits \(=\[\]\) must name a list"),
        (["workers=0"], r"error: workers \(=0\) must be at least 1"),
        (["rot=x"], r"error: unknown key rot; did you mean root\?"),
    ],
)
def test_invalid_input_is_a_one_line_error(root, run, arguments, message):
    status, out, err = run(root, *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.match(message, err), err


def test_unwritable_json_is_an_error(root, tmp_path, run):
    (tmp_path / "folder").mkdir()
    status, _, err = run(root, f"json={tmp_path}/folder")
    assert status == 1
    assert err.startswith("error: json (=")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "root"]


def test_downloads_only_with_its_key(root, run, monkeypatch):
    asked = []
    monkeypatch.setattr(download, "download", asked.append)
    assert run(root)[0] == 0
    assert asked == []
    assert run(root, "download=true")[0] == 0
    assert asked == [root]


def test_sbd_is_added_and_read(root, run, monkeypatch):
    savemat = pytest.importorskip("scipy.io").savemat
    monkeypatch.setattr(SBDataset, "filename", "sbd.tar")
    with tarfile.open(root / "sbd.tar", "w") as tar:
        savemat(content := io.BytesIO(), {"GTcls": {"Segmentation": np.full((1, 4), 3, np.uint8)}})
        files = {"dataset/train.txt": b"c\nd\n", "dataset/val.txt": b"", "dataset/cls/d.mat": content.getvalue()}
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    monkeypatch.setattr(SBDataset, "md5", hashlib.md5((root / "sbd.tar").read_bytes()).hexdigest())
    Image.new("RGB", (4, 1)).save(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "d.jpg")
    status, out, err = run(root, "sbd=true", "splits=[train_aug]")
    assert (status, err) == (0, "")
    assert "train_aug: 3 images\nsbd_train: 2 images\n" in out
    assert "all 3 pairs are valid" in out


@pytest.mark.realdata
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no genuine VOC sample next to the checkout")
def test_genuine_sample_is_valid(tmp_path, run):
    classes = f"classes=[{','.join(VOC_CLASSES)}]"
    assert run(SAMPLE, f"json={tmp_path}/out.json", classes)[0] == 0
    splits = json.loads((tmp_path / "out.json").read_text())["splits"]
    assert {name: split["images"] for name, split in splits.items()} == {"train": 180, "val": 60}
    assert list(splits["train"]["classes"]) == list(VOC_CLASSES)
    # Counted independently of the project: every class occurs, and the background is the most frequent.
    pixels = np.zeros(256, np.int64)
    tree = SAMPLE / "VOCdevkit" / "VOC2012"
    for name in (tree / "ImageSets" / "Segmentation" / "val.txt").read_text().split():
        pixels += np.bincount(np.asarray(Image.open(tree / "SegmentationClass" / f"{name}.png")).ravel(), minlength=256)
    found = splits["val"]
    assert [entry["pixels"] for entry in found["classes"].values()] == pixels[:21].tolist()
    assert found["void_pixels"] == pixels[255]


def test_every_split_is_compared_with_the_validation_split(tmp_path, run):
    masks = {name: [[0, 1, 2, 3]] for name in "abcd"}
    lists = {"train": "a", "val": "bc", "train_aug": "abd", "trainval": "abc"}
    make_voc_tree(tmp_path / "root", masks, lists)
    status, output, _ = run(tmp_path / "root", "splits=[train_aug,val,trainval]")
    assert status == 0
    assert "train_aug and val must have different images, but 1 are in both: b;" in output
    assert "trainval and" not in output  # it contains val by definition


def proposed_words(output: str) -> list[str]:
    """Return the arguments of the proposed command, the last line of the output."""
    program, script, *words = shlex.split(output.splitlines()[-1])
    assert (program, script) == ("python", "train.py")
    return words


def test_proposed_command_repeats_the_keys_of_the_dataset(tmp_path, monkeypatch, capsys):
    root = tmp_path / "my own $data"
    make_voc_tree(root, MASKS, {"first": "ab", "second": "c"})
    names = "classes=[1, 'big cat', \"don't\", true]"
    label_map = "data.label_map={3: ignore, 2: '1'}"
    arguments = (f"data.root='{root}'", names, label_map, "splits=[first,second]", f"json={tmp_path}/out.json")
    arguments = (*arguments, "data.augmentation.flip=0.25")
    status, output, error = commands.type_in(monkeypatch, capsys, *arguments, script=prepare_voc)
    assert (status, error) == (0, "")
    words = proposed_words(output)
    data = fcn.compose(*words).data
    assert data.name == "voc"
    assert data.root == str(root)
    assert data.classes == ["1", "big cat", "don't", "true"]
    assert data.label_map == {3: "ignore", 2: "1"}
    assert (data.train_split, data.val_split) == ("first", "second")
    assert data.augmentation.flip == 0.25
    written = json.loads((tmp_path / "out.json").read_text())
    assert shlex.split(written["proposal"]["command"])[2:] == words


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["splits=[train]"],
            "splits (=['train']) must name a training and a validation split; set data.train_split (=train) and "
            "data.val_split (=val) to two of them",
        ),
        (["splits=[val,test]"], "splits (=['val', 'test']) must name a training and a validation split; "),
        (["splits=[train,test]"], "splits (=['train', 'test']) must name a training and a validation split; "),
        (["splits=[test,test]"], "splits (=['test']) must name a training and a validation split; "),
        (["splits=[test,both]"], "one of test and both contains the other: 1 images are in both"),
        (["data.val_split=both"], "one of train and both contains the other: 2 images are in both"),
        (["data.val_split=train"], "data.train_split and data.val_split (=train) must differ"),
        (["data.protocol=d2l"], "data.protocol=d2l belongs to experiment=d2l"),
        (["data.label_map={0: 0, 1: 0, 2: 0, 255: 0}"], "all pixels of train are background or void"),
    ],
)
def test_no_run_is_proposed_without_what_it_needs(root, tmp_path, run, arguments, reason):
    make_voc_tree(root, MASKS, {"test": "c", "both": "abc"})
    status, output, _ = run(root, *arguments, f"json={tmp_path}/out.json")
    assert status == 0
    assert output.splitlines()[-1].startswith(f"no run is proposed: {reason}")
    assert "python train.py" not in output
    assert json.loads((tmp_path / "out.json").read_text())["proposal"]["command"] is None


def test_no_run_is_proposed_for_a_dataset_with_problems(root, run):
    (root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "c.jpg").unlink()
    status, output, _ = run(root)
    assert status == 1
    assert output.endswith("1 of 3 pairs are invalid\nno run is proposed: the dataset has 1 problem\n")


def test_images_in_both_splits_are_counted(tmp_path, run):
    make_voc_tree(tmp_path / "root", MASKS, {"first": "ab", "second": "bc"})
    status, output, _ = run(tmp_path / "root", "splits=[first,second]", f"json={tmp_path}/out.json")
    assert status == 0
    assert json.loads((tmp_path / "out.json").read_text())["in_both"] == {"first": ["b"]}
    assert "warning: first and second must have different images, but 1 are in both: b;" in output
    assert "images   2 of first, 2 of second, 1 in both\n" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.root=other"], "root and data.root must not both be set"),
        (["data.classes=[ground,bird]"], "classes and data.classes must not both be set"),
        (
            ["data.augmentation.short_side=512"],
            "data.augmentation.short_side (=512) must be null, because the proposed",
        ),
        (["data=folders", "download=true"], "download (=true) must be false with data=folders"),
        (["data=folders", "sbd=true"], "sbd (=true) must be false with data=folders"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(root, run, arguments, message):
    status, _, errors = run(root, *arguments)
    assert status == 1
    assert message in errors
    assert sorted(path.name for path in root.iterdir()) == ["VOCdevkit"]
