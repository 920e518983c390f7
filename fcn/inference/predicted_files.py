"""Files of predictions: masks, overlays, probabilities, and the archive for VOC's evaluation server."""

from __future__ import annotations

import contextlib
import gzip
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
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
from fcn.data.split_lists import SPLIT_LISTS
from fcn.errors import DataError
from fcn.inference.image_files import Source, read_pixels
from fcn.inference.predictor import Predictor, to_mask
from fcn.runs.atomic_files import replacing
from fcn.visualization.legends import draw_class_legend
from fcn.visualization.masks import overlay
from fcn.visualization.png_files import save_png

ARCHIVE = "results.tgz"
"""Name of the archive of `write_archive` in the output folder."""

LEGEND = "classes.png"
"""Name of the legend of class colours in the output folder."""

WRITERS = 2
"""Threads that write files; up to five images with their predictions wait for them."""

OVERLAY_QUALITY = 95
"""JPEG quality of overlays.

For 40 VOC photographs, the files have a third of the size of PNG files and are written in a tenth of the time. libjpeg
refuses images with a side of more than 65,500 pixels.
"""


@dataclass(frozen=True)
class Prediction:
    """An image with its prediction.

    Attributes:
        source: the image.
        pixels: its pixels, uint8 [H, W, 3].
        mask: its predicted classes, uint8 [H, W].
        probabilities: float16 [C, H, W]; None if they are not written.
    """

    source: Source
    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    probabilities: NDArray[np.float16] | None = None

    @classmethod
    def of(cls, source: Source, pixels: NDArray[np.uint8], logits: Tensor, *, softmax: bool) -> Prediction:
        """Return the prediction of logits, float32 [C, H, W] on the CPU, with probabilities if `softmax`."""
        probabilities = logits.softmax(dim=0).half().numpy() if softmax else None
        return cls(source, pixels, to_mask(logits), probabilities)


@dataclass(frozen=True)
class OutputFolder:
    """Folder that receives predictions; errors of the system are passed on as OSError.

    Attributes:
        root: the folder; images of subfolders are predicted into the same subfolders.
        overlay: whether to write the image overlaid with its classes.
        softmax: whether to write the probabilities, as float16 [C, H, W]: 8 MB for a VOC image instead of 16 MB in
            float32. Their sum is 1 to within 0.0005, values below 3e-8 become 0, and their argmax differs from the
            mask, which is computed in float32, at about one pixel in 100,000.
    """

    root: Path
    overlay: bool = True
    softmax: bool = False

    def mask(self, source: Source) -> Path:
        return self.root / f"{source.name}.png"

    def files(self, source: Source) -> list[Path]:
        """Return the files of an image, the mask first."""
        suffixes = ["_overlay.jpg"] * self.overlay + ["_probabilities.npy"] * self.softmax
        return [self.mask(source), *(self.root / f"{source.name}{suffix}" for suffix in suffixes)]

    def check(self, sources: Sequence[Source]) -> None:
        """Check that no image, mask of a dataset or prediction of another image would be overwritten; write nothing.

        Raises:
            ConfigError: if the folder is a file or lies in a VOC tree, whose masks have the names of predictions; if
                two images would have the same file, or a file would replace an image or be replaced by the legend.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"output (={self.root}) must be a folder, but is a file")
        if any((folder / SPLIT_LISTS).is_dir() for folder in (self.root.resolve(), *self.root.resolve().parents)):
            raise ConfigError(f"output (={self.root}) must lie outside of the VOC tree, whose masks it could replace")
        images = {source.path.resolve() for source in sources}
        writers: dict[Path, Source] = {}
        for source in sources:
            for file in self.files(source):
                other = writers.setdefault(file, source)
                if other is not source:
                    raise ConfigError(
                        f"input must give every image a separate output file, but {file} belongs to {other.path} and "
                        f"{source.path}; rename one of them"
                    )
                if file == self.root / LEGEND:
                    raise ConfigError(f"input must not name an image {file.stem}, because {file} is the legend")
                if file.resolve() in images:
                    raise ConfigError(f"output (={self.root}) must not replace the image {file}; use another folder")

    def prepare(self, sources: Sequence[Source], classes: Sequence[str]) -> None:
        """Create the folders of all predictions and write the legend."""
        for folder in {self.mask(source).parent for source in sources}:
            folder.mkdir(parents=True, exist_ok=True)
        save_png(draw_class_legend(classes), self.root / LEGEND)

    def write(self, prediction: Prediction) -> None:
        """Write all files of an image, each atomically."""
        files = iter(self.files(prediction.source))
        save_png(palette_image(prediction.mask), next(files))
        if self.overlay:
            picture = Image.fromarray(overlay(prediction.pixels, prediction.mask))
            with replacing(next(files)) as temporary:
                picture.save(temporary, "JPEG", quality=OVERLAY_QUALITY, subsampling=0)
        if self.softmax:
            assert prediction.probabilities is not None
            buffer = BytesIO()
            np.save(buffer, prediction.probabilities)
            with replacing(next(files)) as temporary:
                temporary.write_bytes(buffer.getvalue())

    def write_archive(self, sources: Sequence[Source], competition: str) -> None:
        """Write `results.tgz` with the masks, as VOC's evaluation server requires; equal masks give equal bytes.

        Args:
            sources: images whose masks are written; the last part of a name is the id of the image.
            competition: comp5 (trained on VOC's images alone) or comp6 (also on others, such as ImageNet).
        """
        # VOCopts.seg.clsrespath in VOCinit.m of the development kit, with the image set "test".
        folder = f"results/VOC2012/Segmentation/{competition}_test_cls"
        buffer = BytesIO()
        # The gzip header has no name and time, which would make the bytes differ.
        with (
            gzip.GzipFile(fileobj=buffer, filename="", mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for mask in sorted(map(self.mask, sources), key=lambda path: path.name):
                entry = tarfile.TarInfo(f"{folder}/{mask.name}")
                entry.size = mask.stat().st_size
                with open(mask, "rb") as file:
                    tar.addfile(entry, file)
        with replacing(self.root / ARCHIVE) as temporary:
            temporary.write_bytes(buffer.getvalue())


def check_submission(sources: Sequence[Source], classes: Sequence[str]) -> None:
    """Check that masks can be submitted to VOC's evaluation server.

    Raises:
        ConfigError: if two images have the same id, or `classes` are not VOC's 21 in their order.
    """
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(Path(source.name).name, source)
        if other is not source:
            raise ConfigError(
                f"voc_submission (=true) must have images of different ids, not {other.path} and {source.path}; "
                "rename one of them"
            )
    if tuple(classes) != VOC_CLASSES:
        raise ConfigError(
            f"voc_submission (=true) must have a run with the {len(VOC_CLASSES)} classes of VOC in their order; this "
            f"one has {len(classes)}: {', '.join(classes[:4])}..."
        )


@contextlib.contextmanager
def write_predictions(
    predictor: Predictor, sources: Iterable[Source], folder: OutputFolder, *, upright: bool = True
) -> Iterator[Iterator[DataError | None]]:
    """Yield an iterator that predicts the images one by one. It yields None for each, or the error of reading it.

    Threads read the next images and write the files of the previous ones; they end with the context.

    Args:
        predictor: the network with its inference settings.
        sources: the images.
        folder: folder of the files.
        upright: whether the EXIF orientation of an image is applied.
    """

    def predict(readings: Iterable[tuple[Source, Future[NDArray[np.uint8]]]]) -> Iterator[Prediction | DataError]:
        for source, reading in readings:
            try:
                pixels = reading.result()
            except DataError as error:
                yield error
            else:
                # Torch's operators would start threads of their own in the threads that write.
                yield Prediction.of(source, pixels, predictor.logits(pixels), softmax=folder.softmax)

    def write(predicted: Prediction | DataError) -> DataError | None:
        if isinstance(predicted, DataError):
            return predicted
        folder.write(predicted)
        return None

    with (
        read_ahead(lambda source: read_pixels(source.path, upright=upright), sources) as readings,
        read_ahead(write, predict(readings), threads=WRITERS) as writings,
    ):
        yield (writing.result() for _, writing in writings)
