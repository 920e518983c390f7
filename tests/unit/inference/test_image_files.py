"""Images of a file, a folder, a glob or a split list, and their decoding."""

import os
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from fcn.config import ConfigError
from fcn.errors import DataError
from fcn.inference.image_files import find_sources, read_pixels

OUTPUT = Path("predictions")


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def paths_by_name(text: str, output: Path = OUTPUT) -> dict[str, str]:
    return {source.name: str(source.path) for source in find_sources(text, output)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_file_needs_no_image_suffix():
    touch("photos/a.b.data", "photos/[1].jpg")
    assert paths_by_name("photos/a.b.data") == {"a.b": "photos/a.b.data"}
    assert paths_by_name("photos/[1].jpg") == {"[1]": "photos/[1].jpg"}


def test_folder_gives_visible_images_of_all_subfolders_sorted():
    touch("photos/b.JPG", "photos/a/z.png", "photos/a.jpeg", "photos/notes.txt", "photos/film.mpg", "photos/paper.pdf")
    touch("photos/.hidden.jpg", "photos/.git/c.jpg", "photos/d.e.webp")
    assert list(paths_by_name("photos").items()) == [
        ("a/z", "photos/a/z.png"),
        ("a", "photos/a.jpeg"),
        ("b", "photos/b.JPG"),
        ("d.e", "photos/d.e.webp"),
    ]


def test_symbolic_links_are_followed_without_cycles():
    touch("elsewhere/a.jpg")
    Path("photos").mkdir()
    os.symlink("../elsewhere", "photos/link")
    os.symlink("..", "photos/up")
    os.symlink("missing.jpg", "photos/dangling.jpg")
    os.symlink("../photos", "elsewhere/back")
    assert paths_by_name("photos") == {"link/a": "photos/link/a.jpg"}


def test_predictions_inside_the_input_folder_are_left_out():
    touch("photos/a.jpg", "photos/predictions/a.png", "photos/predictions/a_overlay.jpg")
    assert paths_by_name("photos", Path("photos/predictions")) == {"a": "photos/a.jpg"}
    assert paths_by_name("photos/**/*", Path("photos/predictions")) == {"a": "photos/a.jpg"}
    assert set(paths_by_name("photos/predictions", Path("photos"))) == {"a", "a_overlay"}
    assert set(paths_by_name("photos", Path("photos"))) == {"a", "predictions/a", "predictions/a_overlay"}


def test_names_of_a_glob_are_relative_to_its_fixed_part():
    touch("photos/a.jpg", "photos/x/b.jpg", "photos/x/y/c.png", "photos/.hidden.jpg", "photos/x/notes.txt")
    assert paths_by_name("photos/*.jpg") == {"a": "photos/a.jpg"}
    assert set(paths_by_name("photos/**/*")) == {"a", "x/b", "x/y/c"}
    assert set(paths_by_name("**/*.jpg")) == {"photos/a", "photos/x/b"}
    assert paths_by_name("photos/x/*/../b.[jp]*") == {"b": "photos/x/b.jpg"}


def test_split_list_gives_the_images_of_its_tree_in_its_order(folder):
    lists = folder / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("\ufeff2008_000006\n\n  2008_000001  \n", encoding="utf-8")
    images = lists.parents[1] / "JPEGImages"
    expected = [(name, str(images / f"{name}.jpg")) for name in ("2008_000006", "2008_000001")]
    assert list(paths_by_name(str(lists / "test.txt")).items()) == expected
    assert paths_by_name("VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt") == dict(expected)


@pytest.mark.parametrize("line", ["../../secret", "/etc/passwd", ".."])
def test_lines_other_than_image_ids_are_rejected(line):
    touch("ImageSets/Segmentation/test.txt")
    Path("ImageSets/Segmentation/test.txt").write_text(f"2008_000001\n{line}\n")
    with pytest.raises(DataError, match=r"test\.txt line 2 \(=.*\) must be an image id"):
        find_sources("ImageSets/Segmentation/test.txt", OUTPUT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing.txt", "there is no such file"),
        ("folder", "must contain at least one image"),
        ("*.gif", "must contain at least one image"),
        ("ImageSets/Segmentation/empty.txt", "must list at least one image"),
        ("notes.txt", "must be a split list in ImageSets/Segmentation"),
    ],
)
def test_input_without_images_is_rejected(text, message):
    touch("folder/notes.md", "notes.txt", "ImageSets/Segmentation/empty.txt")
    with pytest.raises((ConfigError, DataError), match=message):
        find_sources(text, OUTPUT)


def test_unreadable_subfolder_is_an_error(monkeypatch):
    touch("photos/a.jpg", "photos/locked/b.jpg")
    scandir = os.scandir

    def denied(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PermissionError, match="locked"):
        find_sources("photos", OUTPUT)


# Transformation of the stored pixels [H, W] to the upright image, by value of the EXIF tag (EXIF 2.32, 4.6.4 A).
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation):
    stored = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save("photo.png", exif=exif)
    np.testing.assert_array_equal(read_pixels(Path("photo.png")), UPRIGHT[orientation](stored))


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 200, (255, 255, 255)),
        ("L", 200, (200, 200, 200)),
        ("LA", (200, 0), (200, 200, 200)),
        ("RGB", (200, 10, 30), (200, 10, 30)),
        ("RGBA", (200, 10, 30, 0), (200, 10, 30)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("I;16", 30_000, (117, 117, 117)),  # 30,000 of 65,535 is 117 of 255
    ],
)
def test_every_mode_is_converted_to_rgb(mode, value, expected):
    if mode == "YCbCr" and int(PIL.__version__.partition(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read its own TIFF files of this mode")
    Image.new(mode, (4, 2), value).save("image.tif")
    pixels = read_pixels(Path("image.tif"))
    assert (pixels.shape, pixels.dtype) == ((2, 4, 3), np.uint8)
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(np.array(expected), (2, 4, 3)), atol=1)


def test_first_frame_of_a_palette_animation_is_read_in_its_colors():
    frames = []
    for color in ((250, 0, 0), (0, 250, 0)):
        frame = Image.new("P", (4, 2), 3)
        frame.putpalette([*([0] * 9), *color])
        frames.append(frame)
    frames[0].save("film.gif", save_all=True, append_images=frames[1:])
    assert (read_pixels(Path("film.gif")) == (250, 0, 0)).all()


@pytest.mark.parametrize("name", ["text.jpg", "truncated.jpg", "missing.jpg"])
def test_undecodable_file_gives_a_one_line_error(name):
    touch("text.jpg")
    Image.effect_noise((200, 200), 90).save("truncated.jpg")
    Path("truncated.jpg").write_bytes(Path("truncated.jpg").read_bytes()[:2000])
    with pytest.raises(DataError, match=rf"^{name} must be a readable image: [^\n]+$"):
        read_pixels(Path(name))
