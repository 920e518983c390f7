"""Files of predictions: their contents, and that none of them replaces an image, a mask or another prediction."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcn.config import VOC_CLASSES, ConfigError
from fcn.data.mask_formats import MaskReader
from fcn.data.prefetch import THREADS
from fcn.inference import predicted_files
from fcn.inference.image_files import Source
from fcn.inference.predicted_files import OutputFolder, Prediction, check_submission, write_predictions
from tests.pictures import KNOWN_COLORS
from tests.voc_tree import noise

PIXELS = noise(4, 6)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sources(*names: str) -> list[Source]:
    return [Source(Path("photos", name), str(Path(name).with_suffix(""))) for name in names]


def logits_of(mask: np.ndarray, num_classes: int = 21) -> torch.Tensor:
    """Return logits that are highest at the classes of a mask."""
    return 5 * torch.eye(num_classes)[torch.from_numpy(mask).long()].permute(2, 0, 1)


def write(folder: OutputFolder, source: Source, logits: torch.Tensor, pixels: np.ndarray = PIXELS) -> None:
    folder.write(Prediction.of(source, pixels, logits, softmax=folder.softmax))


def files() -> list[str]:
    return sorted(str(path) for path in Path("out").rglob("*") if path.is_file())


def test_mask_is_a_palette_image_like_those_of_voc():
    mask = np.random.default_rng(1).integers(0, 21, (4, 6), np.uint8)
    write(OutputFolder(Path("out"), softmax=True), sources("a/b.jpg")[0], logits_of(mask))
    assert files() == ["out/a/b.png", "out/a/b_overlay.jpg", "out/a/b_probabilities.npy"]
    np.testing.assert_array_equal(MaskReader(21).read(Path("out/a/b.png")), mask)
    with Image.open("out/a/b.png") as image:
        assert image.mode == "P"
        colors = np.array(image.convert("RGB"))
    for index, color in KNOWN_COLORS.items():
        assert (colors[mask == index] == color).all()


def test_overlay_shows_the_image_where_the_background_is_predicted():
    mask = np.zeros((32, 48), np.uint8)
    mask[:, 24:] = 15
    pixels = np.full((32, 48, 3), (90, 40, 200), np.uint8)
    write(OutputFolder(Path("out")), sources("a.jpg")[0], logits_of(mask), pixels)
    with Image.open("out/a_overlay.jpg") as image:
        assert image.format == "JPEG"
        overlay = np.array(image, float)
    np.testing.assert_allclose(overlay[:, :24], pixels[:, :24], atol=3)
    half = (pixels[:, 25:] + np.array(KNOWN_COLORS[15], float)) / 2  # beyond the boundary, which is opaque
    np.testing.assert_allclose(overlay[:, 25:], half, atol=3)


def test_probabilities_are_the_softmax_in_half_precision():
    logits = torch.randn(21, 4, 6, generator=torch.Generator().manual_seed(0)) * 5
    write(OutputFolder(Path("out"), overlay=False, softmax=True), sources("a.jpg")[0], logits)
    assert files() == ["out/a.png", "out/a_probabilities.npy"]
    probabilities = np.load("out/a_probabilities.npy")
    assert (probabilities.shape, probabilities.dtype) == ((21, 4, 6), np.float16)
    exponentials = np.exp(logits.double().numpy())
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(0), rtol=1e-3, atol=1e-7)


def test_probabilities_are_written_atomically(monkeypatch):
    def fail(path, content):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        write(OutputFolder(Path("out"), softmax=True), sources("a.jpg")[0], torch.zeros(21, 4, 6))
    assert files() == ["out/a.png", "out/a_overlay.jpg"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "a.png"], r"out/a\.png belongs to photos/a\.jpg and photos/a\.png"),
        (["x.jpg", "classes.jpg"], r"must not name an image classes, because out/classes\.png is the legend"),
    ],
)
def test_two_images_with_the_same_output_file_are_rejected(names, message):
    with pytest.raises(ConfigError, match=message):
        OutputFolder(Path("out")).check(sources(*names))


def test_equal_names_in_different_folders_are_valid():
    OutputFolder(Path("out"), softmax=True).check(sources("a.jpg", "x/a.jpg", "x/a/a.jpg", "b_overlay.jpg"))
    assert not Path("out").exists()


@pytest.mark.parametrize("root", ["photos", "photos/../photos", "link"])
def test_image_is_never_replaced(root):
    Path("photos").mkdir()
    Path("photos/a.png").touch()
    Path("link").symlink_to("photos")
    with pytest.raises(ConfigError, match=r"output \(=.*\) must not replace the image .*a\.png"):
        OutputFolder(Path(root)).check(sources("a.png"))
    with pytest.raises(ConfigError, match=r"output \(=.*\) must not replace the image .*b_overlay\.jpg"):
        OutputFolder(Path(root)).check(sources("b.jpg", "b_overlay.jpg"))
    OutputFolder(Path(root)).check(sources("b.jpg"))


@pytest.mark.parametrize("subfolder", ["", "SegmentationClass", "new/folder"])
def test_masks_of_voc_are_never_replaced(subfolder):
    Path("VOC2012/ImageSets/Segmentation").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"output \(=VOC2012.*\) must lie outside of the VOC tree"):
        OutputFolder(Path("VOC2012", subfolder)).check(sources("a.jpg"))


def test_output_that_is_a_file_is_rejected():
    Path("out").touch()
    with pytest.raises(ConfigError, match=r"output \(=out\) must be a folder"):
        OutputFolder(Path("out")).check(sources("a.jpg"))


def test_folder_is_prepared_with_subfolders_and_a_legend_in_the_colors_of_voc():
    OutputFolder(Path("out")).prepare(sources("a.jpg", "x/b.jpg"), VOC_CLASSES)
    assert Path("out/x").is_dir()
    assert files() == ["out/classes.png"]
    colors = np.array(Image.open("out/classes.png").convert("RGB")).reshape(-1, 3)
    for color in KNOWN_COLORS.values():
        assert (colors == color).all(axis=1).sum() > 100


def test_archive_contains_the_masks_in_the_layout_of_the_server():
    images, masks = sources("x/2008_000006.jpg", "2008_000001.jpg"), {}
    folder = OutputFolder(Path("out"), overlay=False)
    for number, source in enumerate(images):
        masks[Path(source.name).name] = np.full((4, 6), number + 19, np.uint8)
        write(folder, source, logits_of(masks[Path(source.name).name]))
    folder.write_archive(images, "comp5")
    inside = "results/VOC2012/Segmentation/comp5_test_cls/"
    with tarfile.open("out/results.tgz", "r:gz") as tar:
        assert tar.getnames() == [f"{inside}2008_000001.png", f"{inside}2008_000006.png"]
        for name, mask in masks.items():
            member = tar.extractfile(f"{inside}{name}.png")
            assert member is not None
            np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(member.read()))), mask)
    content = Path("out/results.tgz").read_bytes()
    for path in Path("out").rglob("*.png"):
        path.touch()
    folder.write_archive(images[::-1], "comp5")
    assert Path("out/results.tgz").read_bytes() == content


def test_submission_requires_unique_ids_and_the_classes_of_voc():
    check_submission(sources("a.jpg", "x/b.jpg"), VOC_CLASSES)
    with pytest.raises(ConfigError, match=r"different ids, not photos/a\.jpg and photos/x/a\.jpg"):
        check_submission(sources("a.jpg", "x/a.jpg"), VOC_CLASSES)
    with pytest.raises(ConfigError, match=r"the 21 classes of VOC .* has 2: background, cat\.\.\."):
        check_submission(sources("a.jpg"), ["background", "cat"])


class RedThreshold:
    """Predictor that assigns class 1 where red is above 127."""

    def logits(self, pixels):
        return logits_of((pixels[..., 0] > 127).astype(np.uint8), 2)


def test_unreadable_file_is_reported_and_the_others_are_predicted():
    images = sources("a.jpg", "bad.jpg", "c.png")
    Path("photos").mkdir()
    for source in images:
        Image.fromarray(PIXELS).save(source.path)
    images[1].path.write_text("no image")
    with write_predictions(RedThreshold(), images, OutputFolder(Path("out"), overlay=False)) as predictions:
        results = list(predictions)
    assert [result is None for result in results] == [True, False, True]
    assert str(results[1]).startswith("photos/bad.jpg must be a readable image: ")
    assert files() == ["out/a.png", "out/c.png"]
    np.testing.assert_array_equal(MaskReader(2).read(Path("out/c.png")), PIXELS[..., 0] > 127)


def test_number_of_images_read_ahead_is_limited(monkeypatch):
    read: list[Path] = []
    monkeypatch.setattr(predicted_files, "read_pixels", lambda path, upright: read.append(path) or PIXELS)
    images = sources(*(f"{number}.jpg" for number in range(30)))
    with write_predictions(RedThreshold(), images, OutputFolder(Path("out"), overlay=False)) as results:
        for num_predicted, _ in enumerate(results, 1):
            assert len(read) <= num_predicted + 2 * (THREADS + predicted_files.WRITERS) + 2
    assert sorted(read) == sorted(source.path for source in images)
