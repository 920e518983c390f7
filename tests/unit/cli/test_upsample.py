"""scripts/upsample.py: printed differences, the figure, and one-line errors for invalid input."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn.config import ConfigError
from tests import commands
from tests.commands import load_command

upsample = load_command("upsample")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Current folder with photo.jpg, 30 x 20 pixels of noise, and text.jpg, which is not an image."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    (tmp_path / "text.jpg").write_text("no image\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run the command; return exit status, output and errors."""

    return lambda *arguments: commands.type_in(monkeypatch, capsys, *arguments, script=upsample)


@pytest.fixture
def no_drawing(monkeypatch):
    """Skip the figure, for speed."""
    drawing = "fcn.inference.upsampling_comparison.draw_upsampling_comparison"
    monkeypatch.setattr(drawing, lambda compared, factor: Image.new("RGB", (1, 1)))


def test_differences_are_printed_and_the_figure_is_written(folder, run):
    (folder / "photo_upsampled.png").write_text("former output")
    status, out, err = run("input=photo.jpg", "factor=2")
    assert (status, err) == (0, "")
    size, inside, border, written = out.splitlines()
    assert size == "30x20 to 60x40 pixels; differences on a scale from 0 to 1"
    assert float(re.fullmatch(r"inside: at most (.*), which is rounding", inside)[1]) < 1e-6
    assert 0.2 < float(re.match(r"at the border, 1 pixel wide: at most ([\d.]+), because", border)[1]) < 0.75
    assert written == "written to photo_upsampled.png"
    assert {path.name for path in folder.iterdir()} == {"photo.jpg", "text.jpg", "photo_upsampled.png"}
    with Image.open("photo_upsampled.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")


def test_default_output_is_in_the_current_folder(folder, no_drawing):
    (folder / "elsewhere").mkdir()
    (folder / "photo.jpg").rename(folder / "elsewhere" / "photo.jpg")
    upsample.upsample(upsample.UpsampleConfig(input="elsewhere/photo.jpg", factor=3))
    assert (folder / "photo_upsampled.png").is_file()
    assert [path.name for path in (folder / "elsewhere").iterdir()] == ["photo.jpg"]


def test_input_is_read_as_rgb_in_its_exif_orientation(folder):
    photo = Image.open("photo.jpg").convert("L")
    exif = photo.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    photo.save("turned.jpg", exif=exif)
    image = upsample.read_input(Path("turned.jpg"), 2)
    assert (image.mode, image.size) == ("RGB", (20, 30))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"input is required; use input=photo\.jpg"),
        (["input=absent.jpg"], r"input \(=absent\.jpg\) must be an existing image file"),
        (["input=photo.jpg", "factor=1"], r"factor \(=1\) must be between 2 and 64"),
        (["input=photo.jpg", "factor=2.5"], r"factor \(=2\.5\) must be a whole number"),
        (["inptu=photo.jpg"], r"unknown key inptu; did you mean input\?; known keys: input, factor, output"),
    ],
)
def test_invalid_input_is_a_one_line_error(folder, run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.match(f"error: {message}", err), err
    assert {path.name for path in folder.iterdir()} == {"photo.jpg", "text.jpg"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"input": "."}, r"^input \(=\.\) must be an image file$"),
        ({"input": "text.jpg"}, r"^input \(=text\.jpg\) must be a readable image: unknown image format"),
        ({"output": "photo.jpg"}, r"^output \(=photo\.jpg\) must end in \.png; use output=photo\.png$"),
        ({"output": "text.jpg/new.png"}, r"^output \(=text\.jpg/new\.png\) must be a writable file: "),
    ],
)
def test_unreadable_input_and_unwritable_output_are_errors(folder, no_drawing, keys, message):
    with pytest.raises(ConfigError, match=message):
        upsample.upsample(upsample.UpsampleConfig(**{"input": "photo.jpg", **keys}))
    assert {path.name for path in folder.iterdir()} == {"photo.jpg", "text.jpg"}


def test_output_must_not_be_the_input(folder):
    Image.open("photo.jpg").save("photo.png")
    before = (folder / "photo.png").read_bytes()
    with pytest.raises(ConfigError, match=r"output \(=.*photo\.png\) must not be the input"):
        upsample.upsample(upsample.UpsampleConfig(input="photo.png", output=f"{folder}/photo.png"))
    assert (folder / "photo.png").read_bytes() == before


def test_too_large_image_is_an_error_with_both_remedies(folder):
    Image.new("1", (1000, 500)).save("large.png")
    with pytest.raises(ConfigError) as error:
        upsample.read_input(Path("large.png"), 10)
    assert str(error.value) == (
        "input (=large.png, 1000x500 pixels) must have at most 16.8 million pixels once upsampled, not 10000x5000; "
        "shrink it to 579x289 or use factor=5"
    )
    upsample._check_size(Path("large.png"), (579, 289), 10)
    upsample._check_size(Path("large.png"), (1000, 500), 5)


def test_image_too_large_for_any_factor_has_one_remedy(folder, recwarn):
    Image.new("1", (12000, 9000)).save("vast.png")  # Pillow's warning about decompression bombs is suppressed
    with pytest.raises(ConfigError, match=r"not 24000x18000; shrink it to 2364x1773$"):
        upsample.read_input(Path("vast.png"), 2)
    assert not list(recwarn)


def test_truncated_image_is_an_error(folder):
    whole = (folder / "photo.jpg").read_bytes()
    (folder / "photo.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"^input \(=photo\.jpg\) must be a readable image: "):
        upsample.read_input(Path("photo.jpg"), 2)
