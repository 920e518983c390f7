"""scripts/evaluate.py: scores and files of a run, of a folder of runs, and one-line errors."""

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fcn
from fcn import config as configuration
from fcn import runs
from fcn.config import Config, DataConfig, InferenceConfig, option
from fcn.data.dataset_options import ShapesConfig, ShapesData, VocData
from fcn.data.shapes import CLASSES as SHAPES
from fcn.evaluation import evaluation_files
from fcn.inference.predictor import load
from fcn.models.network import SegmentationNetwork
from tests import commands
from tests.commands import SHARED, load_command
from tests.voc_tree import VOC, make_voc_tree, write_list

CLASSES = ["ground", "cat", "dog"]
VAL = {"a": (20, 31), "b": (31, 20), "c": (20, 31)}
VOID = 255
FILES = {
    "evaluation.json", "per_class.csv", "per_image.csv", "confusions.npz",
    "confusion_matrix.png", "boundary.png", "worst.png",
}  # fmt: skip
FAST = ("worst=0", "boundary_widths=[]")  # no pictures but the confusion matrix

script = load_command("evaluate")


def save_run(folder: Path, data: DataConfig, *, weights: str = "none", name: str = "checkpoints/last.ckpt") -> Path:
    """Write a run directory whose network was not trained, and return it."""
    torch.manual_seed(0)
    backbone = option("backbone", "squeezenet1_0", weights=weights)
    network = SegmentationNetwork(Config(name="x", data=data, backbone=backbone))
    (folder / name).parent.mkdir(parents=True)
    content = {"config": configuration.to_container(network.config), "state_dict": network.state_dict()}
    torch.save(content, folder / name)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Checkpoint of a network with three classes, whose data are in `root`."""
    data = VocData(root="root", classes=CLASSES)
    return save_run(tmp_path_factory.mktemp("saved"), data) / runs.LAST


@pytest.fixture
def folder(tmp_path, saved, monkeypatch) -> Path:
    """Working directory with `run` and its data: val has three images of two sizes, without a dog."""
    masks = {name: np.zeros(size, np.uint8) for name, size in VAL.items()}
    for mask in masks.values():
        mask[5:15, 4:12], mask[4, 4:12] = 1, VOID
    make_voc_tree(tmp_path / "root", masks, {"train": "b", "val": VAL})
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / runs.LAST).symlink_to(saved)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """Return a function that runs the command and returns exit status, output and errors."""
    return lambda *arguments: commands.type_in(monkeypatch, capsys, *arguments, script=script)


def count(target: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the confusion matrix, counted by loops over the classes."""
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
    """Return the chessboard distance of every pixel to another label, by shifting the mask; at most `most + 1`."""
    distances = np.full(mask.shape, most + 1)
    height, width = mask.shape
    for dy in range(-most, most + 1):
        for dx in range(-most, most + 1):
            here = np.s_[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
            there = np.s_[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
            distance = np.where(mask[here] != mask[there], max(abs(dy), abs(dx)), most + 1)
            np.minimum(distances[here], distance, out=distances[here])
    return distances


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def load_mask(root: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{name}.png"))


def load_image(root: Path, name: str) -> Image.Image:
    return Image.open(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg")


def written_confusions(results: Path) -> np.ndarray:
    with np.load(results / "confusions.npz") as file:  # without pickle
        matrix: np.ndarray = file["confusions"]
    return matrix


def written_scores(results: Path) -> dict:
    return json.loads((results / "evaluation.json").read_text(), parse_constant=pytest.fail)


def test_files_of_a_run(folder, evaluate):
    status, out, err = evaluate("run=run")
    assert (status, err) == (0, "")
    assert out.splitlines()[-2:] == ["checkpoint run/checkpoints/last.ckpt, results in", "run/evaluation/val"]
    results = folder / "run" / "evaluation" / "val"
    assert {path.name for path in results.iterdir()} == FILES
    predictor, root = fcn.load("run"), folder / "root"
    expected = np.array([count(load_mask(root, n), predictor.predict(load_image(root, n)), 3) for n in VAL])
    with np.load(results / "confusions.npz") as file:
        assert file["names"].tolist() == list(VAL)
        assert file["confusions"].dtype == np.int64
        np.testing.assert_array_equal(file["confusions"], expected)
    written, total = written_scores(results), expected.sum(axis=0)
    assert written["scores"]["mean_iou"] == pytest.approx(mean_iou(total))
    assert written["scores"]["pixel_accuracy"] == pytest.approx(np.trace(total) / total.sum())
    assert (written["run"], written["checkpoint"]) == ("run", "run/checkpoints/last.ckpt")
    content = (folder / "run" / "checkpoints" / "last.ckpt").read_bytes()
    assert written["checkpoint_sha256"] == hashlib.sha256(content).hexdigest()
    assert (written["split"], written["num_images"], written["data"]["root"]) == ("val", 3, "root")
    assert (written["settings"]["inference"], written["settings"]["batch_size"]) == ("whole", 1)
    assert [row["width"] for row in written["boundary"]] == [1, 2, 4, 8, 16]
    assert {"git_commit", "git_dirty", "versions", "hardware"} < set(written)
    rows = read_csv(results / "per_image.csv")
    assert [row["image"] for row in rows] == list(VAL)
    assert [float(row["mean_iou"]) for row in rows] == pytest.approx([mean_iou(matrix) for matrix in expected])
    classes = read_csv(results / "per_class.csv")
    assert [row["class"] for row in classes] == CLASSES
    assert [int(row["target_pixels"]) for row in classes] == total.sum(axis=1).tolist()
    assert f"{mean_iou(total):.4f}" in out
    # A score that does not exist is null in JSON and empty in CSV: no target has a dog.
    assert classes[2]["accuracy"] == ""
    assert (written["iou"]["dog"] is None) == (classes[2]["iou"] == "") == (classes[2]["predicted_pixels"] == "0")


def test_failed_runs_of_a_sweep_are_named_and_the_others_are_evaluated(folder, evaluate):
    content = torch.load(folder / "run" / runs.LAST)
    moved = {**content["config"]["data"], "root": "nowhere"}
    checkpoints = {
        "0_valid": content,
        "1_pending": None,
        "2_old": {**content, "config": {**content["config"], "depth": 7}},
        "3_moved": {**content, "config": {**content["config"], "data": moved}},
        "4_other": {"weights": content["state_dict"]},
    }
    for name, checkpoint in checkpoints.items():
        runs.create(folder / "sweep" / name, Config())
        (folder / "sweep" / name / "checkpoints").mkdir()
        if checkpoint is not None:
            torch.save(checkpoint, folder / "sweep" / name / runs.LAST)
    status, out, err = evaluate("run=sweep", *FAST)
    assert status == 1
    assert [line for line in out.splitlines() if line.startswith("sweep/")] == ["sweep/0_valid/evaluation/val"]
    *left_out, last = err.splitlines()
    problems = {
        "1_pending": "must be a run with a saved checkpoint", "2_old": "unknown key depth",
        "3_moved": r"data.root \(=nowhere\) must contain", "4_other": "must be a checkpoint",
    }  # fmt: skip
    for line, (name, problem) in zip(left_out, problems.items(), strict=True):
        assert re.match(rf"left out: sweep/{name}: .*{problem}", line), line
    assert last == "error: 4 of 5 runs are not evaluated; see the lines above"
    # A run without checkpoint is no error, unless no run has one.
    for name in ("2_old", "3_moved", "4_other"):
        shutil.rmtree(folder / "sweep" / name)
    assert evaluate("run=sweep", *FAST)[0] == 0
    shutil.rmtree(folder / "sweep" / "0_valid" / "checkpoints")
    assert evaluate("run=sweep")[0] == 1


@pytest.fixture
def second(folder) -> Path:
    """A second run with another network for the same data."""
    torch.manual_seed(1)
    content = torch.load(folder / "run" / runs.LAST)
    content["state_dict"] = {
        name: value + 0.05 * torch.randn_like(value) for name, value in content["state_dict"].items()
    }
    (folder / "second" / "checkpoints").mkdir(parents=True)
    torch.save(content, folder / "second" / runs.LAST)
    return folder / "second"


def test_list_of_runs_evaluates_the_average_of_their_probabilities(folder, second, evaluate):
    status, out, err = evaluate("run=[run,second]", "output=both", *FAST)
    assert (status, err) == (0, "")
    checkpoints = [f"run/{runs.LAST}", f"second/{runs.LAST}"]
    assert out.splitlines()[-2:] == [f"average of 2 checkpoints: {', '.join(checkpoints)}, results in", "both"]
    predictors = [load(run) for run in ("run", "second")]
    for place, name in enumerate(VAL):
        image = load_image(folder / "root", name)
        mean = sum(predictor.logits(image).double().softmax(0) for predictor in predictors) / 2
        expected = count(load_mask(folder / "root", name), mean.argmax(0).numpy(), 3)
        np.testing.assert_array_equal(written_confusions(folder / "both")[place], expected)
    scores = written_scores(folder / "both")
    assert (scores["run"], scores["checkpoint"]) == (["run", "second"], checkpoints)
    assert scores["checkpoint_sha256"] == [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in checkpoints]
    assert not (second / "evaluation").exists()


def test_list_of_one_run_is_the_run(folder, evaluate):
    assert evaluate("run=run", *FAST)[0] == 0
    results = folder / "run/evaluation/val"
    alone = {name: (results / name).read_bytes() for name in ("per_image.csv", "per_class.csv")}
    confusions = written_confusions(results)
    shutil.rmtree(results)
    assert evaluate("run=[run]", *FAST)[0] == 0
    assert {name: (results / name).read_bytes() for name in alone} == alone
    np.testing.assert_array_equal(written_confusions(results), confusions)
    assert written_scores(results)["run"] == "run"


def test_folder_in_a_list_stands_for_its_finished_runs(folder, second, evaluate):
    for name, status in (("run", "finished"), ("second", "finished"), ("third", "pruned"), ("fourth", None)):
        runs.create(folder / "sweep" / name, Config())
        shutil.copytree(folder / ("run" if name == "run" else "second") / "checkpoints", f"sweep/{name}/checkpoints")
        if status:
            runs.write_summary(folder / "sweep" / name, {"metrics": {}, "status": status})
    status, _, err = evaluate("run=[sweep]", "output=both", *FAST)
    assert (status, err) == (0, "left out: sweep/fourth is unfinished\nleft out: sweep/third is pruned\n")
    assert written_scores(folder / "both")["run"] == ["sweep/run", "sweep/second"]
    assert evaluate("run=[sweep/run,sweep/third]", "output=named", *FAST)[0] == 0
    for name in ("run", "second"):
        shutil.rmtree(folder / "sweep" / name)
    status, _, err = evaluate("run=[sweep]", "output=none")
    assert status == 1
    assert err.splitlines()[-1] == (
        "error: run (=sweep) must have a finished run, but has 2 unfinished ones; name the runs: run=[<run>,<run>]"
    )


def test_copy_of_a_run_does_not_change_the_average(folder, evaluate):
    shutil.copytree(folder / "run", folder / "copy")
    assert evaluate("run=run", "output=alone", *FAST)[0] == 0
    assert evaluate("run=[run,copy]", "output=both", *FAST)[0] == 0
    np.testing.assert_array_equal(written_confusions(folder / "both"), written_confusions(folder / "alone"))


@pytest.mark.parametrize(
    ("members", "repeated"),
    [
        ("run,second,run", "run"),
        ("sweep,sweep/0", "sweep/0"),
        ("second,second/../second/", "second/../second"),
        ("run,run/checkpoints/last.ckpt", "run/checkpoints/last.ckpt"),
        ("second,link", "link"),
    ],
)
def test_run_named_twice_is_refused(folder, second, evaluate, members, repeated):
    runs.create(folder / "sweep/0", Config())
    shutil.copytree(second / "checkpoints", folder / "sweep/0/checkpoints")
    runs.write_summary(folder / "sweep/0", {"metrics": {}, "status": "finished"})
    (folder / "link").symlink_to(second)
    status, out, err = evaluate(f"run=[{members}]", "output=both")
    assert (status, out) == (1, "")
    assert err == (
        f"error: run (=[{members}]) must name each run once, because all count equally, but {repeated} is there twice; "
        "leave it out once\n"
    )


def save_with_data(folder: Path, run: str, data: DataConfig) -> None:
    """Save the network of `run` as another run with another dataset."""
    content = torch.load(folder / "run" / runs.LAST)
    data = configuration.to_container(data)
    (folder / run / "checkpoints").mkdir(parents=True)
    torch.save({**content, "config": {**content["config"], "data": data}}, folder / run / runs.LAST)


def test_fold_is_not_evaluated_by_runs_that_were_trained_on_it(folder, evaluate):
    write_list(folder / "root" / VOC, "train", *VAL)
    for fold in (0, 1):
        save_with_data(folder, f"fold{fold}", VocData(root="root", classes=CLASSES, fold=fold, folds=2))
    status, _, err = evaluate("run=[fold0,fold1]", "output=both", *FAST)
    assert status == 1
    assert err == (
        f"error: data.fold (=0) must be that of fold1/{runs.LAST} (=1), which was trained on other images of "
        "data.train_split; use split=val\n"
    )
    assert evaluate("run=[fold0,fold1]", "output=both", "split=val", *FAST)[0] == 0


def test_overridden_validation_split_of_a_fold_is_refused(folder, evaluate):
    write_list(folder / "root" / VOC, "train", *VAL)
    save_with_data(folder, "fold0", VocData(root="root", classes=CLASSES, fold=0, folds=2))
    for overrides in (["data.val_split=train"], ["data=voc", "data.fold=0", "data.folds=2", "data.val_split=train"]):
        status, _, err = evaluate("run=fold0", *overrides)
        assert (status, err) == (
            1,
            "error: data.val_split (=train) has no effect with data.fold (=0), whose images are evaluated; use "
            "split=train\n",
        )
    assert evaluate("run=fold0", "data.val_split=train", "data.fold=null", "data.folds=5", *FAST)[0] == 0
    assert evaluate("run=fold0", "data.val_split=train", "split=val", *FAST)[0] == 0


def test_random_division_is_not_evaluated_by_runs_with_another_one(folder, evaluate):
    tree = (folder / "root" / VOC).rename(folder / "set")
    for old, new in (("JPEGImages", "images"), ("SegmentationClass", "masks")):
        (tree / old).rename(tree / new)
    for path in (tree / "ImageSets/Segmentation").iterdir():
        path.unlink()
    for seed in (2, 3):
        data = option("data", "folders", root="set", classes=CLASSES, val_fraction=0.5, split_seed=seed)
        save_with_data(folder, f"seed{seed}", data)
    error = f"error: data.split_seed (=2) must be that of seed3/{runs.LAST} (=3), which was trained on other images of "
    assert evaluate("run=[seed2,seed3]", "output=both")[::2] == (
        1,
        f"{error}data.train_split; use split=<a list of other images>\n",
    )
    assert evaluate("run=seed3", "data.split_seed=2")[::2] == (
        1,
        f"{error}data.train_split; use that, or split=<a list of other images>\n",
    )
    assert evaluate("run=seed2", *FAST)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run=[run,second]"],
            "output (=null) must be a folder for the results of 2 runs together; use output=ensemble",
        ),
        (["run=[]"], "run (=[]) must be a run directory, a checkpoint file, or a list of these; use run=outputs/"),
        (["run=[run,[second]]"], "run (=['run', ['second']]) must be a run directory"),
        (["run={a: b}"], "run (={'a': 'b'}) must be a run directory"),
        (["run=[run,missing]", "output=x"], "missing must be an existing run directory or checkpoint"),
    ],
)
def test_invalid_list_of_runs_is_a_one_line_error(folder, second, evaluate, arguments, message):
    status, out, err = evaluate(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {message}")
    assert not Path("x").exists()


def test_output_folder_is_for_one_run(folder, evaluate):
    for name in ("a", "b"):
        runs.create(folder / "sweep" / name, Config())
    status, _, err = evaluate("run=sweep", "output=one")
    assert status == 1
    assert "output (=one) is one folder, and run (=sweep) holds 2 runs" in err


def test_later_evaluation_replaces_all_files_of_an_earlier_one(folder, evaluate):
    results = folder / "elsewhere" / "deep"
    assert evaluate("run=run", f"output={results}", "worst=2")[0] == 0
    (results / "notes.txt").write_text("mine")
    assert evaluate("run=run", f"output={results}", *FAST, "split=train")[0] == 0
    assert {path.name for path in results.iterdir()} == FILES - {"boundary.png", "worst.png"} | {"notes.txt"}
    assert written_scores(results)["num_images"] == 1


def test_results_of_a_checkpoint_file_are_next_to_it(folder, evaluate):
    status, out, _ = evaluate("run=run/checkpoints/last.ckpt", *FAST)
    assert (status, out.splitlines()[-1]) == (0, "run/checkpoints/last-evaluation/val")
    assert Path("run/checkpoints/last-evaluation/val/evaluation.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["inference=tiled", "tile_size=[32,32]"], {"inference": "tiled", "tile_size": [32, 32]}),
        (["flip=true", "scales=[0.5,1.0]"], {"flip": True, "scales": [0.5, 1.0]}),
        (["batch_size=4"], {}),
    ],
)
def test_inference_keys_are_applied(folder, evaluate, arguments, settings):
    assert evaluate("run=run", *FAST, *arguments)[0] == 0
    predictor, root = load("run", InferenceConfig(**settings)), folder / "root"
    expected = [count(load_mask(root, n), predictor.predict(load_image(root, n)), 3) for n in VAL]
    results = folder / "run" / "evaluation" / "val"
    np.testing.assert_array_equal(written_confusions(results), expected)
    assert settings.items() <= written_scores(results)["settings"].items()


def test_data_group_replaces_the_data_of_the_run(folder, evaluate):
    (folder / "root").rename(folder / "moved")
    classes = f"data.classes=[{','.join(CLASSES)}]"
    assert evaluate("run=run", "data=voc", "data.root=moved", classes, *FAST)[0] == 0
    scale = written_scores(folder / "run" / "evaluation" / "val")["data"]["augmentation"]["scale"]
    assert scale == [0.5, 2.0]  # from conf/data/voc.yaml; that of the run is [1, 1]


def test_synthetic_dataset_is_drawn_if_it_is_missing(tmp_path, evaluate):
    data = ShapesData(root=str(tmp_path / "data"), classes=list(SHAPES), shapes=ShapesConfig(num_train=1, num_val=2))
    run = save_run(tmp_path / "run", data, name="checkpoints/best.ckpt")
    status, _, err = evaluate(f"run={run}", "boundary_widths=[2,1,2]")
    assert status == 0, err
    written = written_scores(run / "evaluation" / "val")
    assert written["num_images"] == 2
    assert [row["width"] for row in written["boundary"]] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=null"], r"run \(=null\) must be"),
        (["run=root"], r"root must be a run with a saved checkpoint"),
        (["split=vall"], r"split \(=vall\) must be .*: empty, train, val; did you mean val\?"),
        (["split=empty"], r".*empty.txt must list at least one image"),
        (["data.classes=[ground,cat]"], r"data.classes \(=\[ground,cat\]\) must be those of the run"),
        (["data.root=absent"], r"data.root \(=absent\) must contain VOC2012"),
        (["output=file/x"], r"output \(=file/x\) must be a writable folder, but .*file is not"),
        (["batch_size=0"], r"batch_size \(=0\) must be at least 1"),
        (["boundary_widths=[0,1]"], r"boundary_widths \(=\[0, 1\]\) must be at least 1"),
        (["tile_size=[33,32]"], r"tile_size \(=\[33, 32\]\) must be two multiples of 32"),
        (["data.rot=x"], r"unknown key data.rot; did you mean data.root\?"),
        (["data=vok"], r"unknown option vok of data; did you mean voc\?"),
    ],
)
def test_invalid_input_is_a_one_line_error_and_writes_nothing(folder, evaluate, arguments, message):
    (folder / "root" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "empty.txt").write_text("\n")
    (folder / "file").write_text("")
    before = sorted(folder.rglob("*"))
    status, out, err = evaluate("run=run", *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.match(f"error: {message}", err), err
    assert sorted(folder.rglob("*")) == before


def test_unreadable_image_leaves_no_scores_of_the_others(folder, evaluate):
    (folder / "root" / "VOCdevkit" / "VOC2012" / "JPEGImages" / "c.jpg").write_bytes(b"no image")
    status, out, err = evaluate("run=run")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.match(r"error: .*c\.jpg must be a readable image", err), err
    assert not (folder / "run" / "evaluation").exists()


def test_failure_while_writing_keeps_the_earlier_evaluation(folder, evaluate, monkeypatch):
    assert evaluate("run=run", "worst=1")[0] == 0
    results = folder / "run" / "evaluation" / "val"
    before = {path.name: path.read_bytes() for path in results.iterdir()}

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation_files, "draw_confusion_matrix", fail)
    status, _, err = evaluate("run=run", "flip=true")
    assert (status, err) == (1, "error: No space left on device; free space there, or write to another disk\n")
    assert {path.name: path.read_bytes() for path in results.iterdir()} == before


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="no ImageNet weights next to the checkout")
def test_voc_images_are_counted_exactly(voc_sample, tmp_path, evaluate):
    sample, tree = voc_sample / "VOCdevkit" / "VOC2012", tmp_path / "VOCdevkit" / "VOC2012"
    (tree / "ImageSets" / "Segmentation").mkdir(parents=True)
    for part in ("JPEGImages", "SegmentationClass"):
        (tree / part).symlink_to(sample / part)
    names = (sample / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:3]
    (tree / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    weights = str(SHARED / "weights" / "squeezenet1_0-imagenet.pth")
    run = save_run(tmp_path / "run", VocData(root=str(tmp_path)), weights=weights)
    status, _, err = evaluate(f"run={run}", "worst=2")
    assert status == 0, err
    results, widths = run / "evaluation" / "val", [1, 2, 4, 8, 16]
    predictor, expected, in_bands = load(run), [], np.zeros((5, 21, 21), np.int64)
    for name in names:
        target = load_mask(tmp_path, name)
        prediction = predictor.logits(load_image(tmp_path, name)).argmax(dim=0).numpy()
        expected.append(count(target, prediction, 21))
        distance = distance_to_other_label(target, 16)
        in_bands += [count(target[distance <= width], prediction[distance <= width], 21) for width in widths]
    assert np.count_nonzero(np.sum(expected, axis=(0, 1))) > 3  # not one class everywhere
    np.testing.assert_array_equal(written_confusions(results), expected)
    written = written_scores(results)
    assert written["scores"]["mean_iou"] == pytest.approx(mean_iou(np.sum(expected, axis=0)), abs=1e-12)
    assert [row["pixels"] for row in written["boundary"]] == in_bands.sum(axis=(1, 2)).tolist()
    for row, matrix in zip(written["boundary"], in_bands, strict=True):
        assert row["mean_iou"] == pytest.approx(mean_iou(matrix), abs=1e-12)
        assert row["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-12)
