"""Which images a person names by a file, a folder, a glob or a split list, and that they are read upright."""

import os
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from fcn.config import ConfigError
from fcn.data.voc import DataError
from fcn.inference.image_files import find_sources, read_upright

OUTPUT = Path("predictions")


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(text: str, output: Path = OUTPUT) -> dict[str, str]:
    """Names of the outputs and, for each, the file."""
    return {source.name: str(source.path) for source in find_sources(text, output)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_is_itself_whatever_its_suffix():
    touch("photos/a.b.data", "photos/[1].jpg")
    assert found("photos/a.b.data") == {"a.b": "photos/a.b.data"}
    assert found("photos/[1].jpg") == {"[1]": "photos/[1].jpg"}


def test_a_folder_gives_all_images_below_it_sorted():
    touch("photos/b.JPG", "photos/a/z.png", "photos/a.jpeg", "photos/notes.txt", "photos/film.mpg", "photos/paper.pdf")
    touch("photos/.hidden.jpg", "photos/.git/c.jpg", "photos/d.e.webp")
    assert list(found("photos").items()) == [
        ("a/z", "photos/a/z.png"),
        ("a", "photos/a.jpeg"),
        ("b", "photos/b.JPG"),
        ("d.e", "photos/d.e.webp"),
    ]


def test_links_are_followed_but_not_in_circles():
    touch("elsewhere/a.jpg")
    Path("photos").mkdir()
    os.symlink("../elsewhere", "photos/link")
    os.symlink("..", "photos/up")
    os.symlink("absent.jpg", "photos/dangling.jpg")
    os.symlink("../photos", "elsewhere/back")
    assert found("photos") == {"link/a": "photos/link/a.jpg"}


def test_what_an_earlier_call_has_written_is_no_input():
    touch("photos/a.jpg", "photos/predictions/a.png", "photos/predictions/a_overlay.png")
    assert found("photos", Path("photos/predictions")) == {"a": "photos/a.jpg"}
    assert found("photos/**/*", Path("photos/predictions")) == {"a": "photos/a.jpg"}
    assert set(found("photos/predictions", Path("photos"))) == {"a", "a_overlay"}
    assert set(found("photos", Path("photos"))) == {"a", "predictions/a", "predictions/a_overlay"}


def test_a_glob_keeps_the_folders_below_its_fixed_part():
    touch("photos/a.jpg", "photos/x/b.jpg", "photos/x/y/c.png", "photos/.hidden.jpg", "photos/x/notes.txt")
    assert found("photos/*.jpg") == {"a": "photos/a.jpg"}
    assert set(found("photos/**/*")) == {"a", "x/b", "x/y/c"}
    assert set(found("**/*.jpg")) == {"photos/a", "photos/x/b"}
    assert found("photos/x/*/../b.[jp]*") == {"b": "photos/x/b.jpg"}


def test_a_split_list_gives_the_images_of_its_tree_in_its_order(folder):
    lists = folder / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("\ufeff2008_000006\n\n  2008_000001  \n", encoding="utf-8")
    images = lists.parents[1] / "JPEGImages"
    expected = [(name, str(images / f"{name}.jpg")) for name in ("2008_000006", "2008_000001")]
    assert list(found(str(lists / "test.txt")).items()) == expected
    assert found("VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt") == dict(expected)
    (lists / "empty.txt").write_text("\n")
    with pytest.raises(ConfigError, match=r"empty\.txt\) must name at least one image"):
        find_sources(str(lists / "empty.txt"), OUTPUT)


@pytest.mark.parametrize("line", ["../../secret", "a b", "/etc/passwd", "a..b"])
def test_a_list_of_anything_but_ids_is_refused(line):
    touch("ImageSets/Segmentation/test.txt")
    Path("ImageSets/Segmentation/test.txt").write_text(f"2008_000001\n{line}\n")
    with pytest.raises(
        DataError, match=r"test\.txt line 2 \(=.*\) must be an image id such as 2007_000032; correct it"
    ):
        find_sources("ImageSets/Segmentation/test.txt", OUTPUT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("absent.jpg", r"input \(=absent\.jpg\) must be an image, a folder, a glob or a split list; there is no such"),
        ("absent.txt", r"there is no such file"),
        ("empty", r"input \(=empty\) must name at least one image; none was found"),
        ("*.gif", r"input \(=\*\.gif\) must name at least one image"),
        ("notes.txt", r"input \(=notes\.txt\) must be a split list in ImageSets/Segmentation, beside which"),
    ],
)
def test_an_input_without_images(text, message):
    touch("empty/notes.md", "notes.txt")
    with pytest.raises(ConfigError, match=message):
        find_sources(text, OUTPUT)


def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(monkeypatch):
    touch("photos/a.jpg", "photos/locked/b.jpg")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="locked"):
        find_sources("photos", OUTPUT)


# What the EXIF standard says of row 0 and column 0 of the stored pixels, as a change of [H, W] into what is seen.
UPRIGHT = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.swapaxes(0, 1),
    6: lambda seen: np.rot90(seen, -1),
    7: lambda seen: seen[::-1, ::-1].swapaxes(0, 1),
    8: lambda seen: np.rot90(seen),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photo_is_read_as_viewers_show_it(orientation):
    stored = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save("photo.png", exif=exif)
    np.testing.assert_array_equal(read_upright(Path("photo.png")), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_any_mode_is_read_as_its_colours(mode):
    value = 30_000 if mode == "I;16" else 200  # 30000 of 65535 is 117 of 255
    color = {"RGB": (200, 10, 30), "RGBA": (200, 10, 30, 0), "CMYK": (0, 255, 255, 0), "YCbCr": (76, 85, 255)}
    Image.new(mode, (4, 2), color.get(mode, (200, 0) if mode == "LA" else value)).save("image.tif")
    red = {"CMYK": (255, 0, 0), "YCbCr": (254, 0, 0), "RGB": (200, 10, 30), "RGBA": (200, 10, 30)}
    if mode == "YCbCr" and int(PIL.__version__.partition(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read the TIFF of this mode that it writes")
    grey = {"1": 255, "I;16": 117, "L": 200, "LA": 200, "P": 0}
    pixels = read_upright(Path("image.tif"))
    assert (pixels.shape, pixels.dtype) == ((2, 4, 3), np.uint8)
    if mode != "P":
        expected = np.broadcast_to(np.array(red.get(mode, [grey.get(mode)] * 3)), (2, 4, 3))
        np.testing.assert_allclose(pixels.astype(int), expected, atol=1)


def test_a_palette_is_looked_up_and_of_an_animation_the_first_frame_is_taken():
    frames = []
    for color in ((250, 0, 0), (0, 250, 0)):
        frame = Image.new("P", (4, 2), 3)
        frame.putpalette([*([0] * 9), *color])
        frames.append(frame)
    frames[0].save("film.gif", save_all=True, append_images=frames[1:])
    assert (read_upright(Path("film.gif")) == (250, 0, 0)).all()


@pytest.mark.parametrize("kind", ["text", "truncated", "absent", "float"])
def test_what_is_no_image_is_one_line(kind):
    path = Path("a.tif" if kind == "float" else "a.jpg")
    if kind == "float":
        Image.new("F", (4, 4), 0.5).save(path)
    elif kind == "text":
        path.write_text("no image")
    elif kind == "truncated":
        Image.effect_noise((200, 200), 90).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"^a\.\w+ must be a readable image: .") as error:
        read_upright(path)
    assert "\n" not in str(error.value)
