"""Schemas of the commands that use a trained run: inference, evaluation and export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcn.config.choices import Accelerator, ExportFormat, ImageType, Inference, InferencePrecision
from fcn.config.components import no_option, setting
from fcn.config.option_bases import DataConfig

if TYPE_CHECKING:
    RunNames = str | list[str]
else:
    RunNames = Any  # OmegaConf has no type for text or a list of text

RUNS = "a list averages the class probabilities of its runs, and a folder in it stands for all finished runs in it"
"""Meaning of a list as the value of `run`."""


@dataclass(kw_only=True, slots=True)
class InferenceConfig:
    """Inference on an image. Flip and scales average class probabilities."""

    inference: Inference = setting(
        Inference.whole, "whole: image at once; tiled: overlapping tiles whose logits are averaged where they overlap"
    )
    tile_size: list[int] = setting([320, 480], "height and width of a tile in pixels, multiples of 32", low=32)
    flip: bool = setting(False, "average the class probabilities of the image and its mirror image")
    scales: list[float] = setting(
        [1.0], "scales of the image, relative to native size, over which predictions are averaged", low=0.1, high=10
    )
    precision: InferencePrecision = setting(
        InferencePrecision.fp32,
        "precision of the network; bf16: faster on GPUs and CPUs that support it, with other classes at some pixels",
    )
    accelerator: Accelerator = setting(Accelerator.auto, "auto: a GPU if available, otherwise the CPU")


@dataclass(kw_only=True, slots=True)
class EvaluateConfig(InferenceConfig):
    """Evaluation of a run on a split."""

    run: RunNames | None = setting(
        None, f"run directory (its best checkpoint), folder of runs, or checkpoint file; {RUNS}; required"
    )
    data: DataConfig = no_option("data", DataConfig)
    split: str | None = setting(
        None,
        "list of images in ImageSets/Segmentation; null: the split that validates the run, which is data.val_split, or "
        "`fold` with data.fold",
    )
    output: str | None = setting(
        None,
        "folder of the results; null: evaluation/<split> in the run, or a folder next to the checkpoint file; required "
        "for a list of runs",
    )
    batch_size: int | None = setting(
        None, "maximum number of equally sized images per batch; null: 1 on the CPU, 8 on a GPU", low=1
    )
    boundary_widths: list[int] = setting([1, 2, 4, 8, 16], "widths of the boundary bands to score, in pixels", low=1)
    worst: int = setting(12, "number of images to draw; the images with the lowest mean IoU are drawn", low=0)


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """File format of an export, and the inputs that verify it."""

    run: str | None = setting(None, "run directory (its best checkpoint, else its last) or .ckpt file; required")
    format: ExportFormat = setting(ExportFormat.onnx, "onnx, or torch_export (a .pt2 file for torch.export.load)")
    output: str | None = setting(None, "file to write; null: <run>/export/model.onnx or .pt2, or next to a .ckpt file")
    input: ImageType = setting(ImageType.uint8, "pixel type of the input; uint8: 0 to 255, float: 0 to 1")
    opset: int | None = setting(None, "version of the ONNX operator set; null: the exporter's default", low=18)
    sizes: list[list[int]] = setting(
        [[1, 1], [2, 3], [33, 47], [96, 128], [375, 500]], "heights and widths of the images used for verification"
    )
    batches: list[int] = setting([1, 2], "batch sizes used for verification", low=1)
    tolerance: float = setting(
        1e-3, "largest allowed error of the exported logits; relative to the largest logit if that is above 1", low=0
    )
