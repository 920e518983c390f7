"""What a user of scripts/evaluate.py relies on: the numbers of the run on the set that was meant, or one line."""

import csv
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fcn
from fcn import config as configuration
from fcn import runs
from fcn.config import BackboneConfig, BackboneName, Config, DataConfig, DatasetName, InferenceConfig, ShapesConfig
from fcn.data.shapes import CLASSES as SHAPES
from fcn.evaluation import evaluation_files
from fcn.inference.predictor import load
from fcn.models.network import SegmentationNetwork
from tests import commands
from tests.commands import SHARED, load_command
from tests.voc_tree import make_voc_tree

CLASSES = ["ground", "cat", "dog"]
VAL = {"a": (20, 31), "b": (31, 20), "c": (20, 31)}
VOID = 255
FILES = {
    "evaluation.json", "per_class.csv", "per_image.csv", "confusions.npz",
    "confusion_matrix.png", "boundary.png", "worst.png",
}  # fmt: skip


script = load_command("evaluate")


def save_run(folder: Path, data: DataConfig, *, weights: str = "none", name: str = "checkpoints/last.ckpt") -> Path:
    """A run directory whose network was not trained."""
    torch.manual_seed(0)
    backbone = BackboneConfig(name=BackboneName.squeezenet1_0, weights=weights)
    network = SegmentationNetwork(Config(name="x", data=data, backbone=backbone))
    (folder / name).parent.mkdir(parents=True)
    content = {"config": configuration.to_container(network.config), "state_dict": network.state_dict()}
    torch.save(content, folder / name)
    return folder


@pytest.fixture
def tree(tmp_path) -> Path:
    """Root of a VOC tree: val has three images of two sizes, none of them with a dog."""
    masks = {name: np.zeros(size, np.uint8) for name, size in VAL.items()}
    for mask in masks.values():
        mask[5:15, 4:12], mask[4, 4:12] = 1, VOID
    make_voc_tree(tmp_path / "root", masks, {"train": "b", "val": VAL})
    return tmp_path / "root"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A run on three classes, whose checkpoint is copied by the tests; its data are at `root`."""
    data = DataConfig(name=DatasetName.voc, root="root", classes=CLASSES)
    return save_run(tmp_path_factory.mktemp("saved"), data)


@pytest.fixture
def run(saved, tree, monkeypatch) -> Path:
    """A run directory beside its data, in the working directory."""
    monkeypatch.chdir(tree.parent)
    (tree.parent / "run" / "checkpoints").mkdir(parents=True)
    (tree.parent / "run" / "checkpoints" / "last.ckpt").symlink_to(saved / "checkpoints" / "last.ckpt")
    return tree.parent / "run"


@pytest.fixture
def type_in(monkeypatch, capsys):
    """Exit status, output and errors of the command with these arguments."""

    return lambda *arguments: commands.type_in(monkeypatch, capsys, *arguments, script=script)


def count(target: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix by loops over the classes."""
    return np.array(
        [[np.sum((target == t) & (prediction == p)) for p in range(num_classes)] for t in range(num_classes)]
    )


def mean_iou(matrix: np.ndarray) -> float:
    ious = []
    for index in range(len(matrix)):
        union = matrix[index].sum() + matrix[:, index].sum() - matrix[index, index]
        ious += [matrix[index, index] / union] if union else []
    return sum(ious) / len(ious)


def distance_to_other_label(mask: np.ndarray, most: int) -> np.ndarray:
    """Chessboard distance of every pixel to one of another label, by shifting the mask; most + 1 if it is farther."""
    found = np.full(mask.shape, most + 1)
    height, width = mask.shape
    for dy in range(-most, most + 1):
        for dx in range(-most, most + 1):
            here = np.s_[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
            there = np.s_[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
            distance = max(abs(dy), abs(dx))
            np.minimum(found[here], np.where(mask[here] != mask[there], distance, most + 1), out=found[here])
    return found


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_mask(root: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{name}.png"))


def read_image(root: Path, name: str) -> Image.Image:
    return Image.open(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg")


def matrices(folder: Path) -> np.ndarray:
    with np.load(folder / "confusions.npz") as file:  # without pickle
        matrix: np.ndarray = file["confusions"]
    return matrix


def test_files_of_a_run(run, tree, type_in):
    status, out, err = type_in("run=run")
    assert (status, err) == (0, "")
    assert out.splitlines()[-2:] == ["of run/checkpoints/last.ckpt, in", "run/evaluation/val"]
    folder = run / "evaluation" / "val"
    assert {path.name for path in folder.iterdir()} == FILES
    predictor = fcn.load(run)
    expected = np.array([count(read_mask(tree, n), predictor.predict(read_image(tree, n)), 3) for n in VAL])
    with np.load(folder / "confusions.npz") as file:
        assert file["names"].tolist() == list(VAL)
        assert file["confusions"].dtype == np.int64
        np.testing.assert_array_equal(file["confusions"], expected)
    written = json.loads((folder / "evaluation.json").read_text())
    total = expected.sum(axis=0)
    assert written["scores"]["mean_iou"] == pytest.approx(mean_iou(total))
    assert written["scores"]["pixel_accuracy"] == pytest.approx(np.trace(total) / total.sum())
    assert (written["run"], written["checkpoint"]) == ("run", "run/checkpoints/last.ckpt")
    content = (run / "checkpoints" / "last.ckpt").read_bytes()
    assert written["checkpoint_sha256"] == hashlib.sha256(content).hexdigest()
    assert (written["split"], written["num_images"], written["data"]["root"]) == ("val", 3, "root")
    assert (written["settings"]["inference"], written["settings"]["batch_size"]) == ("whole", 1)
    assert [row["width"] for row in written["boundary"]] == [1, 2, 4, 8, 16]
    assert {"git_commit", "git_dirty", "versions", "hardware"} < set(written)
    rows = read_csv(folder / "per_image.csv")
    assert [row["image"] for row in rows] == list(VAL)
    assert [float(row["mean_iou"]) for row in rows] == pytest.approx([mean_iou(matrix) for matrix in expected])
    classes = read_csv(folder / "per_class.csv")
    assert [row["class"] for row in classes] == CLASSES
    assert [int(row["target_pixels"]) for row in classes] == total.sum(axis=1).tolist()
    assert f"{mean_iou(total):.4f}" in out


def test_every_run_of_a_folder(run, tree, type_in):
    """A sweep's: three runs, one of which has no checkpoint yet."""
    for name in ("0_a", "1_b", "2_c"):
        runs.create(tree.parent / "sweep" / name, Config())
        if name != "1_b":
            (tree.parent / "sweep" / name / "checkpoints").symlink_to(run / "checkpoints")
    status, out, err = type_in("run=sweep", "data.root=root", "worst=0", "boundary_widths=[]")
    assert status == 0
    assert [line for line in out.splitlines() if line.startswith("sweep/")] == [
        "sweep/0_a/evaluation/val",
        "sweep/2_c/evaluation/val",
    ]
    (line,) = err.splitlines()
    assert line.startswith("left out: sweep/1_b")
    status, _, err = type_in("run=sweep", "data.root=root", "output=one")
    assert status == 1
    assert "output (=one) is one folder, and run (=sweep) holds 3 runs; leave it out" in err


def test_a_run_that_cannot_be_evaluated_is_named_and_the_others_go_on(run, tree, type_in):
    """Of a sweep: without checkpoint, of another version, with data that are gone, torn, and sound."""
    for name in ("0_pending", "1_old", "2_lost", "3_torn", "4_good"):
        runs.create(tree.parent / "sweep" / name, Config())
        (tree.parent / "sweep" / name / "checkpoints").mkdir()
    content = torch.load(run / runs.LAST)
    for name, config in [
        ("1_old", {**content["config"], "depth": 7}),
        ("2_lost", {**content["config"], "data": {**content["config"]["data"], "root": "gone"}}),
        ("4_good", content["config"]),
    ]:
        torch.save({**content, "config": config}, tree.parent / "sweep" / name / runs.LAST)
    (tree.parent / "sweep" / "3_torn" / runs.LAST).write_bytes(b"torn")
    status, out, err = type_in("run=sweep", "worst=0", "boundary_widths=[]")
    assert status == 1
    assert [line for line in out.splitlines() if line.startswith("sweep/")] == ["sweep/4_good/evaluation/val"]
    *left_out, last = err.splitlines()
    for line, (name, problem) in zip(left_out, [
        ("0_pending", "has saved"), ("1_old", "unknown key depth"), ("2_lost", r"data.root \(=gone\) must contain"),
        ("3_torn", "must be a checkpoint"),
    ], strict=True):  # fmt: skip
        assert re.match(rf"left out: sweep/{name}: .*{problem}", line), line
    assert last == "error: 4 of 5 runs are not evaluated; see the lines above"


def test_runs_none_of_which_has_a_checkpoint_are_an_error(tmp_path, monkeypatch, type_in):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        runs.create(tmp_path / "sweep" / name, Config())
    status, out, err = type_in("run=sweep")
    assert (status, out) == (1, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["left out", "left out", "error"]
    assert err.endswith("error: 2 of 2 runs are not evaluated; see the lines above\n")


def test_a_score_that_does_not_exist_is_null_in_json_and_empty_in_csv(run, type_in):
    assert type_in("run=run", "worst=0", "boundary_widths=[]")[0] == 0
    folder = run / "evaluation" / "val"
    (dog,) = (row for row in read_csv(folder / "per_class.csv") if row["class"] == "dog")
    written = json.loads((folder / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert dog["accuracy"] == ""  # no dog in any target
    assert (written["iou"]["dog"] is None) == (dog["iou"] == "") == (dog["predicted_pixels"] == "0")
    content = evaluation_files._or(None, {"a": math.nan, "b": 0.5, "c": "x"})
    assert content == {"a": None, "b": 0.5, "c": "x"}


def test_a_later_evaluation_replaces_the_files_and_leaves_none_of_the_former(run, type_in):
    folder = run.parent / "elsewhere" / "deep"
    assert type_in("run=run", f"output={folder}", "worst=2")[0] == 0
    (folder / "notes.txt").write_text("mine")
    assert type_in("run=run", f"output={folder}", "worst=0", "boundary_widths=[]", "split=train")[0] == 0
    assert {path.name for path in folder.iterdir()} == FILES - {"boundary.png", "worst.png"} | {"notes.txt"}
    assert json.loads((folder / "evaluation.json").read_text())["num_images"] == 1


def test_a_checkpoint_has_its_files_beside_it(run, type_in):
    status, out, _ = type_in("run=run/checkpoints/last.ckpt", "worst=0")
    assert (status, out.splitlines()[-1]) == (0, "run/checkpoints/last-evaluation/val")
    assert (run / "checkpoints" / "last-evaluation" / "val" / "evaluation.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["inference=tiled", "tile_size=[32,32]"], {"inference": "tiled", "tile_size": [32, 32]}),
        (["flip=true", "scales=[0.5,1.0]"], {"flip": True, "scales": [0.5, 1.0]}),
        (["batch_size=4"], {}),
    ],
)
def test_the_network_is_applied_as_asked_for(run, tree, type_in, arguments, settings):
    assert type_in("run=run", "worst=0", "boundary_widths=[]", *arguments)[0] == 0
    predictor = load(run, InferenceConfig(**settings))
    expected = [count(read_mask(tree, n), predictor.predict(read_image(tree, n)), 3) for n in VAL]
    np.testing.assert_array_equal(matrices(run / "evaluation" / "val"), expected)
    written = json.loads((run / "evaluation" / "val" / "evaluation.json").read_text())
    assert settings.items() <= written["settings"].items()


RUN = DataConfig(name=DatasetName.voc, root="there", val_split="mine", classes=CLASSES)


@pytest.mark.parametrize(
    ("overrides", "differs"),
    [
        ([], {}),
        (["run=x", "split=val"], {}),
        (["data.root=new"], {"root": "new"}),
        (["data.root=new", "+data.download=true"], {"root": "new", "download": True}),
        (["data.shapes.num_val=3"], {"shapes.num_val": 3}),
    ],
)
def test_single_keys_change_only_these_of_the_runs_data(overrides, differs):
    typed_in = DataConfig(root="new", download=True, val_split="other", shapes=ShapesConfig(num_val=3))
    found = script.data_of(RUN, typed_in, overrides)
    flat = configuration.flatten
    assert flat(configuration.to_container(found)) == {**flat(configuration.to_container(RUN)), **differs}


def test_a_data_group_replaces_the_runs_data(run, tree, type_in):
    tree.rename(tree.parent / "moved")
    classes = f"data.classes=[{','.join(CLASSES)}]"
    assert type_in("run=run", "data=voc", "data.root=moved", classes, "worst=0")[0] == 0
    written = json.loads((run / "evaluation" / "val" / "evaluation.json").read_text())
    assert written["data"]["augmentation"]["scale"] == [0.5, 2.0]  # of conf/data/voc.yaml; the run's is [1, 1]
    assert script.data_of(RUN, DataConfig(root="new"), ["data=voc"]) == DataConfig(root="new")


def test_the_embedded_set_is_drawn(tmp_path, monkeypatch, type_in):
    data = DataConfig(root=str(tmp_path / "data"), classes=list(SHAPES), shapes=ShapesConfig(num_train=1, num_val=2))
    save_run(tmp_path / "run", data, name="checkpoints/best.ckpt")
    status, _, err = type_in(f"run={tmp_path}/run", "boundary_widths=[2,1,2]")
    assert status == 0, err
    written = json.loads((tmp_path / "run" / "evaluation" / "val" / "evaluation.json").read_text())
    assert written["num_images"] == 2
    assert [row["width"] for row in written["boundary"]] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"run \(=null\) must be a run directory or a checkpoint; use run=outputs/<name>/<time>"),
        (["run=absent"], r"absent must be an existing run directory or checkpoint"),
        (["run=root"], r"root must be a run with a saved checkpoint, but root/checkpoints/last.ckpt is missing"),
        (["run=run", "split=vall"], r"split \(=vall\) must be a list in .*: empty, train, val; did you mean val\?"),
        (["run=run", "split=empty"], r".*empty.txt must list at least one image"),
        (["run=run", "data=voc", "data.root=root"], r"data.classes \(=\[background,.*\]\) must be those of the run"),
        (["run=run", "data.classes=[ground,cat]"], r"data.classes \(=\[ground,cat\]\) must be those of the run"),
        (["run=run", "data.root=absent"], r"data.root \(=absent\) must contain VOC2012"),
        (["run=run", "output=file/x"], r"output \(=file/x\) must be a writable folder, but .*file is not"),
        (["run=run", "batch_size=0"], r"batch_size \(=0\) must be at least 1"),
        (["run=run", "boundary_widths=[0,1]"], r"boundary_widths \(=\[0, 1\]\) must be at least 1"),
        (["run=run", "tile_size=[33,32]"], r"tile_size \(=\[33, 32\]\) must be two multiples of 32"),
        (["run=run", "data.rot=x"], r"unknown key data.rot; did you mean data.root\?"),
        (["run=run", "data=vok"], r"unknown option vok of data; did you mean voc\?; options: shapes, voc"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(run, tree, type_in, arguments, message):
    (tree / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "empty.txt").write_text("\n")
    (run.parent / "file").write_text("")
    before = sorted(run.parent.rglob("*"))
    status, out, err = type_in(*arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.match(f"error: {message}", err), err
    assert sorted(run.parent.rglob("*")) == before


def test_a_pair_that_cannot_be_read_leaves_no_numbers_of_the_others(run, tree, type_in):
    (tree / "VOCdevkit" / "VOC2012" / "JPEGImages" / "c.jpg").write_bytes(b"no image")
    status, out, err = type_in("run=run")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.match(r"error: .*c\.jpg must be a readable image", err), err
    assert not (run / "evaluation").exists()


def test_a_failure_while_writing_leaves_the_former_evaluation(run, type_in, monkeypatch):
    assert type_in("run=run", "worst=1")[0] == 0
    before = {path.name: path.read_bytes() for path in (run / "evaluation" / "val").iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation_files, "draw_confusion_matrix", full)
    status, _, err = type_in("run=run", "split=val", "flip=true")
    assert (status, err) == (1, "error: No space left on device; free space there, or write to another disk\n")
    assert {path.name: path.read_bytes() for path in (run / "evaluation" / "val").iterdir()} == before


@pytest.fixture
def three(voc_sample, tmp_path) -> Path:
    """A tree whose val is the first three images of the genuine one."""
    genuine, folder = voc_sample / "VOCdevkit" / "VOC2012", tmp_path / "VOCdevkit" / "VOC2012"
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    for part in ("JPEGImages", "SegmentationClass"):
        (folder / part).symlink_to(genuine / part)
    names = (genuine / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:3]
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    return tmp_path


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="no ImageNet weights beside the checkout")
def test_the_genuine_sample_to_the_last_count(three, type_in):
    weights = str(SHARED / "weights" / "squeezenet1_0-imagenet.pth")
    run = save_run(three / "run", DataConfig(name=DatasetName.voc, root=str(three)), weights=weights)
    status, _, err = type_in(f"run={run}", "worst=2")
    assert status == 0, err
    folder, widths = run / "evaluation" / "val", [1, 2, 4, 8, 16]
    names = (three / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    predictor, expected, in_bands = load(run), [], np.zeros((5, 21, 21), np.int64)
    for name in names:
        target = read_mask(three, name)
        prediction = predictor.logits(read_image(three, name)).argmax(dim=0).numpy()
        expected.append(count(target, prediction, 21))
        distance = distance_to_other_label(target, 16)
        in_bands += [count(target[distance <= width], prediction[distance <= width], 21) for width in widths]
    assert np.count_nonzero(np.sum(expected, axis=(0, 1))) > 3  # not one class everywhere
    np.testing.assert_array_equal(matrices(folder), expected)
    written = json.loads((folder / "evaluation.json").read_text())
    assert written["scores"]["mean_iou"] == pytest.approx(mean_iou(np.sum(expected, axis=0)), abs=1e-12)
    assert [row["pixels"] for row in written["boundary"]] == in_bands.sum(axis=(1, 2)).tolist()
    for row, matrix in zip(written["boundary"], in_bands, strict=True):
        assert row["mean_iou"] == pytest.approx(mean_iou(matrix), abs=1e-12)
        assert row["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-12)
