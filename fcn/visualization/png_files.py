"""Saving pictures."""

from pathlib import Path

from PIL import Image

from fcn.runs.atomic_files import replacing


def save_png(image: Image.Image, path: Path) -> None:
    """Save a picture as PNG, whole or not at all. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
