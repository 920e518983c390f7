"""What a user of scripts/upsample.py relies on: it is interpolation, the picture shows it, mistakes are one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from fcn.config import ConfigError
from tests import commands
from tests.commands import load_command

upsample = load_command("upsample")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A folder to type in that holds photo.jpg, 30 x 20 pixels of noise, and text.jpg, which is no image."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    (tmp_path / "text.jpg").write_text("no image\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Exit status of the command with these arguments, its output and its errors."""

    return lambda *arguments: commands.type_in(monkeypatch, capsys, *arguments, script=upsample)


@pytest.fixture
def no_drawing(monkeypatch):
    """For speed, where the picture is not what is looked at."""
    monkeypatch.setattr(upsample, "comparison_figure", lambda compared, factor: Image.new("RGB", (1, 1)))


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 7, 8, 31, 32, 63, 64])
def test_inside_it_is_interpolation_and_outside_it_fades(factor):
    maps = 1 + torch.rand(2, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = upsample.transposed_convolution(factor).double()
    found, expected = layer(maps), F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    border = factor // 2
    inside = (..., slice(border, -border), slice(border, -border))
    # The kernel is made in float32.
    torch.testing.assert_close(found[inside], expected[inside], rtol=1e-6, atol=1e-6)
    shares = found / expected
    shares[inside] = 0
    assert shares[..., 0, 0].min() > 0.25
    assert shares.max() < 1


def test_the_chapters_layer_is_the_one_for_an_even_factor():
    layer = upsample.transposed_convolution(2)
    assert (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (1, 1))


def test_the_command_of_the_readme(folder, run):
    (folder / "photo_upsampled.png").write_text("of last time")
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


def test_the_default_output_is_in_the_current_folder(folder, no_drawing):
    (folder / "elsewhere").mkdir()
    (folder / "photo.jpg").rename(folder / "elsewhere" / "photo.jpg")
    upsample.upsample(upsample.UpsampleConfig(input="elsewhere/photo.jpg", factor=3))
    assert (folder / "photo_upsampled.png").is_file()
    assert [path.name for path in (folder / "elsewhere").iterdir()] == ["photo.jpg"]


def noise(size):
    """The same at every call, and nowhere black, which any upsampling would leave as it is."""
    width, height = size
    return Image.fromarray(np.random.default_rng(0).integers(60, 200, (height, width, 3), np.uint8))


@pytest.mark.parametrize(("size", "factor"), [((1, 1), 2), ((1, 1), 3), ((3, 200), 2), ((40, 30), 32)])
def test_images_of_any_shape_are_compared(size, factor):
    compared = upsample.compare(noise(size), factor)
    assert compared.transposed.shape == compared.interpolated.shape == (3, size[1] * factor, size[0] * factor)
    inside, border = compared.extremes()
    assert 0.1 < border < 0.75
    if size == (1, 1) and factor == 2:
        assert np.isnan(inside)
        assert upsample._lines(compared, factor)[1] == "inside: there is none"
    else:
        assert inside < 1e-4


@pytest.mark.parametrize(("size", "factor"), [((1, 1), 2), ((200, 3), 5)])
def test_the_picture_is_whole(size, factor, recwarn):
    compared = upsample.compare(noise(size), factor)
    pixels = np.asarray(upsample.comparison_figure(compared, factor))
    assert all((edge == 255).all() for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]))
    assert not list(recwarn)


def test_the_detail_holds_the_largest_difference():
    difference = torch.zeros(50, 80)
    for row, column in ((0, 0), (49, 79), (20, 40), (0, 79)):
        difference[row, column] += 1 + row + column
        box = upsample._where_they_differ(difference, side=16)
        assert (box.height, box.width) == (16, 16)
        assert 0 <= box.top <= row < box.top + 16 <= 50
        assert 0 <= box.left <= column < box.left + 16 <= 80
        difference[row, column] = 0
    assert upsample._where_they_differ(difference[:3], side=16) == (0, 0, 3, 16)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_mode_are_read(folder, mode):
    path = folder / ("image.tif" if mode == "CMYK" else "image.png")
    Image.open("photo.jpg").convert(mode).save(path)
    image = upsample.read_image(path, 2)
    assert (image.mode, image.size) == ("RGB", (30, 20))


def test_a_photograph_taken_upright_is_upright(folder):
    photo = Image.open("photo.jpg")
    exif = photo.getexif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    photo.save("turned.jpg", exif=exif)
    assert upsample.read_image(Path("turned.jpg"), 2).size == (20, 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"input must name the image to upsample; use input=photo\.jpg"),
        (["input=absent.jpg"], r"input \(=absent\.jpg\) must be an image file, but it is absent"),
        (["input=photo.jpg", "factor=1"], r"factor \(=1\) must be between 2 and 64"),
        (["input=photo.jpg", "factor=2.5"], r"factor \(=2\.5\) must be a whole number"),
        (["inptu=photo.jpg"], r"unknown key inptu; did you mean input\?; known keys: input, factor, output"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error(folder, run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.match(f"error: {message}", err), err
    assert {path.name for path in folder.iterdir()} == {"photo.jpg", "text.jpg"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"input": "."}, r"^input \(=\.\) must be an image file$"),
        ({"input": "text.jpg"}, r"^input \(=text\.jpg\) must be a readable image: it begins like no image"),
        ({"output": "photo.jpg"}, r"^output \(=photo\.jpg\) must end in \.png; use output=photo\.png$"),
        ({"output": "text.jpg/new.png"}, r"^output \(=text\.jpg/new\.png\) must be a file that can be written: "),
    ],
)
def test_files_that_cannot_be_read_or_written(folder, no_drawing, keys, message):
    with pytest.raises(ConfigError, match=message):
        upsample.upsample(upsample.UpsampleConfig(**{"input": "photo.jpg", **keys}))
    assert {path.name for path in folder.iterdir()} == {"photo.jpg", "text.jpg"}


def test_an_image_is_not_overwritten_by_its_own_comparison(folder):
    Image.open("photo.jpg").save("photo.png")
    before = (folder / "photo.png").read_bytes()
    with pytest.raises(ConfigError, match=r"output \(=.*photo\.png\) must not be the input, which it would overwrite"):
        upsample.upsample(upsample.UpsampleConfig(input="photo.png", output=f"{folder}/photo.png"))
    assert (folder / "photo.png").read_bytes() == before


def test_an_image_that_becomes_too_large_is_refused_with_what_fits(folder):
    Image.new("1", (1000, 500)).save("large.png")
    with pytest.raises(ConfigError) as refused:
        upsample.read_image(Path("large.png"), 10)
    assert str(refused.value) == (
        "input (=large.png, 1000x500 pixels) must have at most 16.8 million pixels once upsampled, not 10000x5000; "
        "shrink it to 579x289 or use factor=5"
    )
    upsample._check_size(Path("large.png"), (579, 289), 10)
    upsample._check_size(Path("large.png"), (1000, 500), 5)


def test_an_image_too_large_for_any_factor_has_one_remedy(folder, recwarn):
    Image.new("1", (12000, 9000)).save("vast.png")  # Pillow warns of a decompression bomb, which our limit answers
    with pytest.raises(ConfigError, match=r"not 24000x18000; shrink it to 2364x1773$"):
        upsample.read_image(Path("vast.png"), 2)
    assert not list(recwarn)


def test_an_image_cut_off_is_no_readable_one(folder):
    whole = (folder / "photo.jpg").read_bytes()
    (folder / "photo.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"^input \(=photo\.jpg\) must be a readable image: "):
        upsample.read_image(Path("photo.jpg"), 2)
