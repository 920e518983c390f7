"""Atomic writing of PNG files."""

from pathlib import Path

from PIL import Image

from fcn.runs.atomic_files import replacing


def save_png(image: Image.Image, path: Path) -> None:
    """Save an image as PNG in one atomic step, and create its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
