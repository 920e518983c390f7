"""Atomic writing of PNG files."""

from pathlib import Path

from PIL import Image

from fcn.runs.atomic_files import replacing


def save_png(image: Image.Image, path: Path, *, compress_level: int = 6) -> None:
    """Save an image as PNG in one atomic step, and create its folder if necessary.

    Args:
        image: the image.
        path: the file.
        compress_level: level of zlib, from 1, the fastest, to 9.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", compress_level=compress_level)
