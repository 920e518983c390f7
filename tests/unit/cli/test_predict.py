"""scripts/predict.py: the masks of the Python API, unreadable files reported and skipped, one-line errors."""

import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fcn
from fcn import config as configuration
from fcn.config import Config, InferenceConfig, option
from fcn.config.choices import Inference
from fcn.data.mask_formats import MaskReader
from fcn.models.network import SegmentationNetwork
from tests import commands
from tests.commands import load_command

predict = load_command("predict")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run directory with a checkpoint of an untrained network for VOC's classes."""
    run = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    network = SegmentationNetwork(
        Config(name="x", data=option("data", "voc"), backbone=option("backbone", "squeezenet1_0"))
    )
    (run / "checkpoints").mkdir()
    content = {"config": configuration.to_container(network.config), "state_dict": network.state_dict()}
    torch.save(content, run / "checkpoints" / "best.ckpt")
    return run


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Working directory with photos/a.jpg, photos/x/b.png and photos/turned.jpg, rotated by its EXIF orientation."""
    generator = np.random.default_rng(0)
    (tmp_path / "photos" / "x").mkdir(parents=True)
    for name, size in (("a.jpg", (30, 40)), ("x/b.png", (40, 33)), ("turned.jpg", (24, 48))):
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "turned.jpg" else 1
        pixels = generator.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name, exif=exif)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs the command and returns exit status, output and errors."""
    return lambda *arguments: commands.type_in(monkeypatch, capsys, "accelerator=cpu", *arguments, script=predict)


def files(top: str) -> list[str]:
    return sorted(path.relative_to(top).as_posix() for path in Path(top).rglob("*") if path.is_file())


def test_command_and_python_api_predict_the_same_masks(folder, trained, run):
    status, out, err = run(f"run={trained}", "input=photos")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"3 images predicted in [\d.]+ s \([\d.]+ images/s\), see predictions\n", out)
    names = ["a", "turned", "x/b"]
    assert files("predictions") == sorted(
        ["classes.png", *(f"{name}{end}" for name in names for end in (".png", "_overlay.jpg"))]
    )
    predictor = fcn.load(trained)
    for name, file in (("a", "a.jpg"), ("x/b", "x/b.png")):
        mask = MaskReader(21).read(Path("predictions", f"{name}.png")).numpy()
        np.testing.assert_array_equal(mask, predictor.predict(Image.open(Path("photos", file))))
    upright = Image.open("photos/turned.jpg").rotate(-90, expand=True)
    mask = MaskReader(21).read(Path("predictions/turned.png")).numpy()
    assert mask.shape == (48, 24)
    np.testing.assert_array_equal(mask, predictor.predict(upright))


def test_list_of_runs_predicts_the_average_of_their_probabilities(folder, trained, run):
    content = torch.load(trained / "checkpoints/best.ckpt")
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in content["state_dict"].items()}
    torch.save({**content, "state_dict": state}, "other.ckpt")
    status, _, err = run(f"run=[{trained},other.ckpt]", "input=photos/a.jpg")
    assert (status, err) == (0, "")
    image = Image.open("photos/a.jpg")
    probabilities = [fcn.load(path).probabilities(image) for path in (trained, "other.ckpt")]
    mask = MaskReader(21).read(Path("predictions/a.png")).numpy()
    np.testing.assert_array_equal(mask, sum(probabilities).argmax(0))
    assert (mask != probabilities[0].argmax(0).numpy()).any()


def test_runs_that_read_exif_differently_need_a_choice(folder, trained, run):
    content = torch.load(trained / "checkpoints/best.ckpt")
    torch.save({**content, "VOCDataModule": {"ignores_exif": True}}, "other.ckpt")
    status, _, err = run(f"run=[{trained},other.ckpt]", "input=photos")
    assert status == 1
    assert "exif (=null) must be set, because the runs use it differently (run 1: apply, run 2: ignore)" in err
    assert not Path("predictions").exists()
    assert run(f"run=[{trained},other.ckpt]", "input=photos", "exif=ignore")[0] == 0


@pytest.mark.parametrize(
    ("of_run", "ignored", "given", "turned"),
    [
        (None, False, (), True),
        (None, True, (), False),  # the images of the run had orientations, which were ignored
        ("ignore", False, (), False),
        ("apply", True, (), True),
        ("ignore", False, ("exif=apply",), True),
        (None, False, ("exif=ignore",), False),
    ],
)
def test_orientation_is_applied_as_in_training(folder, trained, run, of_run, ignored, given, turned):
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["config"]["data"]["exif"] = of_run
    content["VOCDataModule"] = {"ignores_exif": ignored}
    torch.save(content, "other.ckpt")
    assert run("run=other.ckpt", "input=photos/turned.jpg", *given)[0] == 0
    assert Image.open("predictions/turned.png").size == ((24, 48) if turned else (48, 24))


def test_inference_keys_are_applied(folder, trained, run):
    keys = ("inference=tiled", "tile_size=[32,32]", "flip=true", "scales=[1.0,1.5]", "softmax=true", "overlay=false")
    assert run(f"run={trained}", "input=photos/a.jpg", "output=out/deep", *keys)[0] == 0
    assert files("out") == ["deep/a.png", "deep/a_probabilities.npy", "deep/classes.png"]
    settings = InferenceConfig(inference=Inference.tiled, tile_size=[32, 32], flip=True, scales=[1.0, 1.5])
    expected = fcn.load(trained, settings).probabilities(Image.open("photos/a.jpg"))
    np.testing.assert_array_equal(np.load("out/deep/a_probabilities.npy"), expected.numpy().astype(np.float16))
    np.testing.assert_array_equal(MaskReader(21).read(Path("out/deep/a.png")), expected.argmax(0))


def test_unreadable_files_are_reported_and_no_archive_is_written(folder, trained, run):
    Path("photos/bad.jpg").write_text("no image")
    Path("photos/x/half.png").write_bytes(Path("photos/x/b.png").read_bytes()[:200])
    Path("predictions").mkdir()
    Path("predictions/results.tgz").write_text("of an earlier call")
    status, out, err = run(f"run={trained}", "input='photos/**/*'", "overlay=false", "voc_submission=true")
    assert (status, out) == (1, "")
    first, second, last = err.splitlines()
    assert first.startswith("photos/bad.jpg must be a readable image: ")
    assert second.startswith("photos/x/half.png must be a readable image: ")
    assert last == "2 of 5 images could not be read; results.tgz is not written, because masks are missing"
    assert files("predictions") == ["a.png", "classes.png", "turned.png", "x/b.png"]


def test_split_list_gives_a_submission_archive(folder, trained, run):
    lists = folder / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("2008_000006\n2008_000001\n")
    images = lists.parents[1] / "JPEGImages"
    images.mkdir()
    for name in ("2008_000001", "2008_000006", "2008_000009"):
        Image.effect_noise((40, 32), 90).convert("RGB").save(images / f"{name}.jpg")
    assert run(f"run={trained}", f"input={lists}/test.txt", "voc_submission=true", "overlay=false")[0] == 0
    inside = "results/VOC2012/Segmentation/comp6_test_cls"
    with tarfile.open("predictions/results.tgz") as tar:
        assert tar.getnames() == [f"{inside}/2008_000001.png", f"{inside}/2008_000006.png"]
        tar.extractall("unpacked", filter="data")
    for name in ("2008_000001", "2008_000006"):
        packed, written = (np.array(Image.open(f"{top}/{name}.png")) for top in (f"unpacked/{inside}", "predictions"))
        np.testing.assert_array_equal(packed, written)
        assert packed.max() <= 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=null"], "run (=null) must be a run directory or a checkpoint"),
        (["run=photos/a.jpg"], "photos/a.jpg must be a checkpoint saved by train.py"),
        (["input=null"], "input (=null) must be"),
        (["input="], "input (=null) must be"),
        (["output=photos"], "output (=photos) must not replace the image photos/x/b"),
        (["output=photos/a.jpg"], "output (=photos/a.jpg) must be a folder"),
        (["competition=comp7"], "competition (=comp7) must be one of comp5, comp6"),
        (["inputs=photos"], "unknown key inputs; did you mean input?"),
    ],
)
def test_invalid_input_gives_a_one_line_error(folder, trained, run, arguments, message):
    status, out, err = run(f"run={trained}", "input=photos", *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: {message}")
    assert [path.name for path in folder.iterdir()] == ["photos"]
