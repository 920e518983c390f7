"""Files that predictions are written to: what is in them, that they are whole, and that none replaces an image."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcn.config import VOC_CLASSES, ConfigError
from fcn.data import voc
from fcn.data.prefetch import THREADS
from fcn.data.voc import DataError
from fcn.inference import predicted_files
from fcn.inference.image_files import Source
from fcn.inference.predicted_files import OutputFolder, check_submission, write_predictions
from tests.pictures import KNOWN_COLORS

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sources(*names: str) -> list[Source]:
    return [Source(Path("photos", name), str(Path(name).with_suffix(""))) for name in names]


def logits_of(mask: np.ndarray, num_classes: int = 21) -> torch.Tensor:
    """Logits that are highest at the classes of a mask."""
    return 5 * torch.eye(num_classes)[torch.from_numpy(mask).long()].permute(2, 0, 1)


def files() -> list[str]:
    return sorted(str(path) for path in Path("out").rglob("*") if path.is_file())


@pytest.fixture
def mask():
    return np.random.default_rng(1).integers(0, 21, (4, 6), np.uint8)


def test_a_mask_is_a_palette_image_as_those_of_voc(mask):
    (source,) = sources("a/b.jpg")
    OutputFolder(Path("out"), softmax=True).write(source, PIXELS, logits_of(mask))
    assert files() == ["out/a/b.png", "out/a/b_overlay.png", "out/a/b_probabilities.npy"]
    np.testing.assert_array_equal(voc.read_mask(Path("out/a/b.png"), 21), mask)
    with Image.open("out/a/b.png") as image:
        assert image.mode == "P"
        colors = np.array(image.convert("RGB"))
    for index, color in KNOWN_COLORS.items():
        assert (colors[mask == index] == color).all()


def test_an_overlay_shows_the_image_where_the_background_is():
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 3:] = 15
    OutputFolder(Path("out")).write(sources("a.jpg")[0], PIXELS, logits_of(mask))
    shown = np.array(Image.open("out/a_overlay.png"))
    np.testing.assert_array_equal(shown[:, :3], PIXELS[:, :3])
    half = (PIXELS[:, 4:].astype(float) + KNOWN_COLORS[15]) / 2  # beyond the boundary, which is opaque
    np.testing.assert_allclose(shown[:, 4:], half, atol=0.5)


def test_probabilities_are_the_softmax_in_half_precision():
    logits = torch.randn(21, 4, 6, generator=torch.Generator().manual_seed(0)) * 5
    OutputFolder(Path("out"), overlay=False, softmax=True).write(sources("a.jpg")[0], PIXELS, logits)
    assert files() == ["out/a.png", "out/a_probabilities.npy"]
    found = np.load("out/a_probabilities.npy")
    assert (found.shape, found.dtype) == ((21, 4, 6), np.float16)
    exponentials = np.exp(logits.double().numpy())
    np.testing.assert_allclose(found, exponentials / exponentials.sum(0), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a.jpg", "a.png"],
            r"input must not give a file twice: out/a\.png of photos/a\.jpg and photos/a\.png; rename",
        ),
        (["a.jpg", "a_overlay.jpg"], r"out/a_overlay\.png of photos/a\.jpg and photos/a_overlay\.jpg"),
        (["x.jpg", "classes.jpg"], r"input must not name an image classes, whose mask would be the legend out/classes"),
    ],
)
def test_two_inputs_for_one_file_are_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        OutputFolder(Path("out")).check(sources(*names))


def test_equal_names_in_different_folders_are_fine():
    OutputFolder(Path("out"), softmax=True).check(sources("a.jpg", "x/a.jpg", "x/a/a.jpg", "b_overlay.jpg"))
    assert not Path("out").exists()


@pytest.mark.parametrize("root", ["photos", "photos/../photos", "link"])
def test_an_image_is_never_replaced(root, folder):
    Path("photos").mkdir()
    Path("photos/a.png").touch()
    Path("link").symlink_to("photos")
    with pytest.raises(ConfigError, match=r"output \(=.*\) must not replace the image .*a\.png; use another folder"):
        OutputFolder(Path(root)).check(sources("a.png"))
    OutputFolder(Path(root)).check(sources("b.jpg"))


@pytest.mark.parametrize("inside", ["", "SegmentationClass", "new/folder"])
def test_the_masks_of_voc_are_never_replaced(inside):
    Path("VOC2012/ImageSets/Segmentation").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"output \(=VOC2012.*\) must lie outside of the VOC tree"):
        OutputFolder(Path("VOC2012", inside)).check(sources("a.jpg"))
    OutputFolder(Path("results")).check(sources("a.jpg"))


def test_an_output_that_cannot_be_written_is_seen_before():
    Path("out").write_text("a file")
    with pytest.raises(ConfigError, match=r"output \(=out\) must be a folder that can be written; .*out"):
        OutputFolder(Path("out")).prepare(sources("a.jpg"))
    Path("there/a.png").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"output \(=there\) must be .*: there/a\.png is a folder"):
        OutputFolder(Path("there")).prepare(sources("a.jpg"))
    OutputFolder(Path("new")).prepare(sources("a.jpg", "x/b.jpg"))
    assert [path.name for path in Path("new").rglob("*")] == ["x"]


def test_a_full_disk_leaves_no_half_file(mask, monkeypatch):
    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=r"output \(=out\) must be a folder that can be written; .*No space left"):
        OutputFolder(Path("out"), overlay=False, softmax=True).write(sources("a.jpg")[0], PIXELS, logits_of(mask))
    assert files() == ["out/a.png"]


def test_the_legend_is_a_picture():
    OutputFolder(Path("out")).write_legend(VOC_CLASSES)
    colors = np.array(Image.open("out/classes.png").convert("RGB")).reshape(-1, 3)
    for color in KNOWN_COLORS.values():
        assert (colors == color).all(axis=1).sum() > 100


def test_the_archive_holds_the_masks_as_the_server_wants_them():
    named, masks = sources("x/2008_000006.jpg", "2008_000001.jpg"), {}
    out = OutputFolder(Path("out"), overlay=False)
    for number, source in enumerate(named):
        masks[Path(source.name).name] = np.full((4, 6), number + 19, np.uint8)
        out.write(source, PIXELS, logits_of(masks[Path(source.name).name]))
    out.write_archive(named, "comp5")
    inside = "results/VOC2012/Segmentation/comp5_test_cls/"
    with tarfile.open("out/results.tgz", "r:gz") as tar:
        assert tar.getnames() == [f"{inside}2008_000001.png", f"{inside}2008_000006.png"]
        for name, mask in masks.items():
            member = tar.extractfile(f"{inside}{name}.png")
            assert member is not None
            np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(member.read()))), mask)
    first = hashlib.sha256(Path("out/results.tgz").read_bytes()).hexdigest()
    for path in Path("out").rglob("*.png"):
        path.touch()
    OutputFolder(Path("out")).write_archive(named[::-1], "comp5")
    assert hashlib.sha256(Path("out/results.tgz").read_bytes()).hexdigest() == first
    OutputFolder(Path("out")).remove_archive()
    assert files() == ["out/2008_000001.png", "out/x/2008_000006.png"]


def test_a_submission_needs_ids_that_differ_and_the_classes_of_voc():
    check_submission(sources("a.jpg", "x/b.jpg"), list(VOC_CLASSES))
    with pytest.raises(ConfigError, match=r"needs ids that differ; photos/a\.jpg and photos/x/a\.jpg have the same"):
        check_submission(sources("a.jpg", "x/a.jpg"))
    with pytest.raises(ConfigError, match=r"needs a run with the 21 classes of VOC .* has 2: background, cat\.\.\."):
        check_submission(sources("a.jpg"), ["background", "cat"])


class Brightness:
    """A predictor that finds class 1 where red is above 127."""

    def logits(self, pixels):
        return logits_of((pixels[..., 0] > 127).astype(np.uint8), 2)


def test_one_bad_file_is_told_and_the_others_are_written():
    named = sources("a.jpg", "bad.jpg", "c.png")
    Path("photos").mkdir()
    for source in named:
        Image.fromarray(PIXELS).save(source.path)
    named[1].path.write_text("no image")
    results = list(write_predictions(Brightness(), named, OutputFolder(Path("out"), overlay=False)))
    assert [result is None for result in results] == [True, False, True]
    assert str(results[1]).startswith("photos/bad.jpg must be a readable image: ")
    assert files() == ["out/a.png", "out/c.png"]
    np.testing.assert_array_equal(voc.read_mask(Path("out/c.png"), 2), PIXELS[..., 0] > 127)


def test_few_images_are_read_ahead(monkeypatch):
    read: list[Path] = []

    def reading(path):
        read.append(path)
        if len(read) == 30:
            raise DataError("the last one")
        return PIXELS

    monkeypatch.setattr(predicted_files, "read_upright", reading)
    named = sources(*(f"{number}.jpg" for number in range(30)))
    results = write_predictions(Brightness(), named, OutputFolder(Path("out"), overlay=False))
    for done in range(1, 31):
        next(results)
        assert len(read) <= done + 3 * THREADS
    assert sorted(read) == sorted(source.path for source in named)
