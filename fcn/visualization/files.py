"""How pictures are saved."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from PIL import Image


def save_png(image: Image.Image, path: Path) -> None:
    """Save a picture as PNG, whole or not at all: a reader never meets half a file. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are readable by their owner alone. Not from path.name: that may be at its limit.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        image.save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
