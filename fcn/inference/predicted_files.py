"""Images predicted into files: masks, overlays, probabilities, and the archive for VOC's evaluation server."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fcn.config import VOC_CLASSES, ConfigError
from fcn.data.palette import palette_image
from fcn.data.prefetch import read_ahead
from fcn.data.voc import SPLIT_LISTS, DataError
from fcn.inference.image_files import Source, read_upright
from fcn.inference.predictor import Predictor
from fcn.runs.atomic_files import replacing
from fcn.visualization.legends import draw_class_legend
from fcn.visualization.masks import overlay
from fcn.visualization.png_files import save_png

ARCHIVE = "results.tgz"
"""The archive of `write_archive`, below the output folder."""

LEGEND = "classes.png"
"""Which colour is which class, below the output folder."""


@dataclass(frozen=True)
class OutputFolder:
    """The folder that receives predictions.

    Attributes:
        root: the folder; below it the names of sources keep their own folders.
        overlay: whether the image with its classes laid over it is written as well.
        softmax: whether the probabilities are written as well, as float16 [C, H, W]: half the 16 MB that float32
            takes for a VOC image. Their sum is then 1 to within 0.0005, what is below 3e-8 is 0, and the mask, which
            is chosen before, is not their argmax at about one pixel in 100,000.
    """

    root: Path
    overlay: bool = True
    softmax: bool = False

    def mask(self, source: Source) -> Path:
        return self.root / f"{source.name}.png"

    def files(self, source: Source) -> list[Path]:
        """All that is written for an image: the mask first."""
        others = {"_overlay.png": self.overlay, "_probabilities.npy": self.softmax}
        return [self.mask(source), *(self.root / f"{source.name}{end}" for end, asked in others.items() if asked)]

    def write_legend(self, classes: Sequence[str]) -> None:
        """Write which colour is which class; raises as `write`."""
        with self._writing():
            save_png(draw_class_legend(classes), self.root / LEGEND)

    def check(self, sources: Sequence[Source]) -> None:
        """Check that nothing of value would be overwritten; creates nothing.

        Raises:
            ConfigError: if two images would give the same file, a file would replace one of the images or be replaced
                by the legend, or the folder lies in a VOC tree, whose masks have the names of ours.
        """
        if any((folder / SPLIT_LISTS).is_dir() for folder in (self.root.resolve(), *self.root.resolve().parents)):
            raise ConfigError(f"output (={self.root}) must lie outside of the VOC tree, whose masks it could replace")
        images = {source.path.resolve() for source in sources}
        writers: dict[Path, Source] = {}
        for source in sources:
            for file in self.files(source):
                other = writers.setdefault(file, source)
                if other is not source:
                    pair = f"{other.path} and {source.path}"
                    raise ConfigError(f"input must not give a file twice: {file} of {pair}; rename one of them")
                if file == self.root / LEGEND:
                    raise ConfigError(
                        f"input must not name an image {LEGEND[:-4]}, whose mask would be the legend {file}"
                    )
                if file.resolve() in images:
                    raise ConfigError(f"output (={self.root}) must not replace the image {file}; use another folder")

    def prepare(self, sources: Sequence[Source]) -> None:
        """Make all folders, and see that they can be written to.

        Raises:
            ConfigError: if they cannot, or a folder has the name of a file to write.
        """
        with self._writing():
            for folder in sorted({file.parent for source in sources for file in self.files(source)}):
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
            for file in (file for source in sources for file in self.files(source)):
                if file.is_dir():
                    raise IsADirectoryError(f"{file} is a folder")

    def remove_archive(self) -> None:
        """Remove the archive of an earlier call, which would not go with the masks that are about to be written."""
        with self._writing():
            (self.root / ARCHIVE).unlink(missing_ok=True)

    def write(self, source: Source, pixels: NDArray[np.uint8], logits: Tensor) -> None:
        """Write all files of an image, each whole or not at all.

        Args:
            source: names the files.
            pixels: the image, uint8 [H, W, 3].
            logits: float32 [C, H, W] on the CPU.

        Raises:
            ConfigError: if a file cannot be written.
        """
        mask = logits.argmax(dim=0).byte().numpy()
        files = iter(self.files(source))
        with self._writing():
            save_png(palette_image(mask), next(files))
            if self.overlay:
                save_png(Image.fromarray(overlay(pixels, mask)), next(files))
            if self.softmax:
                buffer = BytesIO()
                np.save(buffer, logits.softmax(dim=0).half().numpy())
                with replacing(next(files)) as temporary:
                    temporary.write_bytes(buffer.getvalue())

    def write_archive(self, sources: Sequence[Source], competition: str) -> None:
        """Write the masks as VOC's evaluation server takes them: `results.tgz`, the same bytes for the same masks.

        Args:
            sources: images whose masks are written; the last part of a name is the image's id.
            competition: comp5 (trained on VOC's images alone) or comp6 (on others too, such as ImageNet's).

        Raises:
            ConfigError: if the file cannot be written.
        """
        # VOCopts.seg.clsrespath in VOCinit.m of the development kit, with the image set "test".
        inside = f"results/VOC2012/Segmentation/{competition}_test_cls"
        buffer = BytesIO()
        # A gzip header holds time and name of the file unless it is told not to.
        with (
            self._writing(),
            gzip.GzipFile(fileobj=buffer, filename="", mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for mask in sorted(map(self.mask, sources), key=lambda path: path.name):
                entry = tarfile.TarInfo(f"{inside}/{mask.name}")
                entry.size = mask.stat().st_size
                with open(mask, "rb") as file:
                    tar.addfile(entry, file)
        with self._writing(), replacing(self.root / ARCHIVE) as temporary:
            temporary.write_bytes(buffer.getvalue())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            problem = f"{error.filename or self.root}: {error.strerror or error}"
            raise ConfigError(f"output (={self.root}) must be a folder that can be written; {problem}") from error


def check_submission(sources: Sequence[Source], classes: Sequence[str] | None = None) -> None:
    """Check that masks can go into VOC's archive.

    Raises:
        ConfigError: if two images have the same id, or `classes` are not VOC's 21 in their order.
    """
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(Path(source.name).name, source)
        if other is not source:
            pair = f"{other.path} and {source.path}"
            raise ConfigError(f"voc_submission (=true) needs ids that differ; {pair} have the same, rename one of them")
    if classes is not None and tuple(classes) != VOC_CLASSES:
        raise ConfigError(
            f"voc_submission (=true) needs a run with the {len(VOC_CLASSES)} classes of VOC in their order; this one "
            f"has {len(classes)}: {', '.join(classes[:4])}..."
        )


def write_predictions(
    predictor: Predictor, sources: Iterable[Source], folder: OutputFolder
) -> Iterator[DataError | None]:
    """Predict and write one image after the other; yield None for each, or the error of its file.

    Raises:
        ConfigError: if a file cannot be written.
    """
    for source, future in read_ahead(lambda source: read_upright(source.path), sources):
        try:
            pixels = future.result()
        except DataError as error:
            yield error
        else:
            folder.write(source, pixels, predictor.logits(pixels))
            yield None
