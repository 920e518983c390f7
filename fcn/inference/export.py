"""Export of a trained network to ONNX or torch.export's .pt2, verified against PyTorch before the file appears.

The exported network accepts any number of images of any size from 1x1 up, and normalises them itself.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as tracing
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops.misc import Permute

from fcn.config import ConfigError, ExportConfig
from fcn.config.choices import Algorithm, ExportFormat, ImageType
from fcn.errors import UserError, message_line
from fcn.inference.predictor import load_network
from fcn.models.network import SegmentationNetwork
from fcn.models.upsampling import Upsampling
from fcn.runs import provenance
from fcn.runs.atomic_files import replacing_files
from fcn.runs.checkpoints import find_checkpoint

Exported = Callable[[Tensor], tuple[Tensor, Tensor]]


class ExportError(UserError):
    """Raised if the network cannot be exported, or the exported network gives other results."""


@dataclass(frozen=True)
class Agreement:
    """Differences between the exported network and PyTorch on `batch` random images of `size` (height, width).

    Attributes:
        difference: largest absolute difference of two logits.
        other_class: number of pixels of another class, whose two highest logits are within the tolerance.
    """

    size: tuple[int, int]
    batch: int
    difference: float
    other_class: int


class Deployed(nn.Module):
    """The network in the form in which it is exported: images in, logits and mask out.

    It computes the same numbers with a copy of the network's model. The memory layout is contiguous, because
    the exported network would otherwise reject images with axes of size 1, the upsampling is a single transposed
    convolution, and pools of a fixed number of cells are products of matrices.
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.model = copy.deepcopy(network.model).to(memory_format=torch.contiguous_format).requires_grad_(False).eval()
        for module in self.model.modules():
            if isinstance(module, Upsampling):
                module.algorithm = Algorithm.transposed
            elif isinstance(module, (Permute, LayerNorm2d)):
                module.register_forward_hook(_make_contiguous)
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
                    module.register_module(name, GridPool(child))
            if callable(fix_padding := getattr(module, "fix_padding", None)):  # of a backbone of timm
                fix_padding()
        self.normalize = network.normalize

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, float32 [N, C, H, W], and mask, uint8 [N, H, W], of images [N, 3, H, W]."""
        logits = self.model(self.normalize(images))
        return logits, logits.argmax(dim=1).to(torch.uint8)


class GridPool(nn.Module):
    """Average pool to a fixed number of cells, which torch.onnx.export translates only for images of one size."""

    def __init__(self, pool: nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        self.cells: Any = pool.output_size if isinstance(pool.output_size, tuple) else 2 * (pool.output_size,)

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean of every cell, [N, C, rows, columns]; neighbouring cells may overlap by one pixel."""
        sides = zip(self.cells, features.shape[-2:], strict=True)
        rows, columns = (self._weights(cells, side).to(features) for cells, side in sides)
        return rows @ features @ columns.T

    @staticmethod
    def _weights(cells: int, side: int) -> Tensor:
        cell, pixel = torch.arange(cells).unsqueeze(1), torch.arange(side)
        inside = (pixel >= cell * side // cells) & (pixel < ((cell + 1) * side + cells - 1) // cells)
        return inside / inside.sum(dim=1, keepdim=True)


def _make_contiguous(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Copy the output to contiguous layout; `contiguous` instead of `clone` would specialise on axes of size 1."""
    return output.clone(memory_format=torch.contiguous_format)


def export(config: ExportConfig) -> tuple[Path, list[Agreement]]:
    """Export the network of a run; the file appears only after its verification.

    Returns:
        The file, and the agreement with PyTorch for every size and batch.

    Raises:
        ConfigError: if a key is invalid.
        CheckpointError: if the run has no checkpoint that loads.
        ExportError: if a package is missing, the exporter fails, or the exported network gives other results.
        OSError: if the file cannot be written.
    """
    checkpoint = find_checkpoint(config.run)
    output = _output_file(config)
    packages = _import_packages() if config.format is ExportFormat.onnx else {}
    network = load_network(checkpoint)
    metadata = {**_metadata(network, config), "run": str(checkpoint.resolve()), "packages": json.dumps(packages)}
    write, read = (_write_onnx, _load_onnx) if config.format is ExportFormat.onnx else (_write_pt2, _load_pt2)
    with replacing_files(output.parent) as folder:  # several files if the weights exceed protobuf's limit of 2 GB
        file = folder / output.name
        try:
            write(trace(network, config.input), file, config, metadata)
        except Exception as error:  # the exporters raise many types
            problem = f"{_first_line(error)}; HYDRA_FULL_ERROR=1 shows the traceback"
            raise ExportError(f"format (={config.format}) cannot be exported: {problem}") from error
        agreements = verify(read(file), network, config)
    return output, agreements


def _first_line(error: Exception) -> str:
    return message_line(str(error)) or type(error).__name__


def trace(network: SegmentationNetwork, images: ImageType) -> ExportedProgram:
    """Return torch.export's program of the network for any batch size, height and width from 1 up."""
    example = random_images(2, (97, 130), images)
    dimensions = {0: Dim("batch", min=1), 2: Dim("height", min=1), 3: Dim("width", min=1)}
    # Without this setting torch.export specialises on axes of size 1; torch.onnx.export sets it too.
    with torch.no_grad(), tracing.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            Deployed(network),
            (example,),
            dynamic_shapes=(dimensions,),
            # Conditions of crops that cannot be proved for all sizes are checked when the program runs.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def random_images(batch: int, size: tuple[int, int], images: ImageType) -> Tensor:
    """Return reproducible noise: uint8 [batch, 3, height, width], or float32 of the same values over 255."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=generator)
    return noise if images is ImageType.uint8 else noise / 255


@torch.no_grad()
def verify(exported: Exported, network: SegmentationNetwork, config: ExportConfig) -> list[Agreement]:
    """Compare the exported network with PyTorch for every size and batch of `config`.

    Raises:
        ExportError: naming the position of the largest difference, if it exceeds the tolerance.
    """
    agreements = []
    for height, width in config.sizes:
        for batch in config.batches:
            images = random_images(batch, (height, width), config.input)
            inputs = f"{batch} x {height} x {width} images"
            try:
                logits, mask = exported(images)
            except Exception as error:  # a guard of torch.export or a kernel of ONNX Runtime
                problem = _first_line(error)
                raise ExportError(f"the exported network must accept {inputs}, but fails: {problem}") from error
            remedy = f"on {inputs}; raise tolerance (={config.tolerance:g}) only if that is rounding"
            difference, other = _compare(logits, mask, network(images), tolerance=config.tolerance, remedy=remedy)
            agreements.append(Agreement((height, width), batch, difference, other))
    return agreements


def _compare(logits: Tensor, mask: Tensor, expected: Tensor, *, tolerance: float, remedy: str) -> tuple[float, int]:
    """Return the largest difference of logits, and the number of pixels of another class."""
    if logits.shape != expected.shape or mask.shape != expected[:, 0].shape:
        shape, given = tuple(expected.shape), tuple(logits.shape)
        raise ExportError(f"the exported logits must have the shape {shape}, not {given}, {remedy}")
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    differences = (logits - expected).abs().nan_to_num(nan=torch.inf)
    largest = float(differences.max())
    if largest > allowed:
        place = [int(index) for index in torch.unravel_index(differences.argmax(), differences.shape)]
        raise ExportError(
            f"the exported logits must equal PyTorch's, but differ by {largest:.3g} at image, class, row, column "
            f"{place} {remedy}"
        )
    other = mask != expected.argmax(dim=1)
    best = expected.topk(2, dim=1).values
    wrong = other & (best[:, 0] - best[:, 1] > allowed)
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise ExportError(f"the exported mask must equal PyTorch's, but differs at image, row, column {place} {remedy}")
    return largest, int(other.sum())


def _output_file(config: ExportConfig) -> Path:
    """Check the keys and return the file to write."""
    if not config.sizes or any(len(size) != 2 or min(size) < 1 for size in config.sizes):
        raise ConfigError(f"sizes (={config.sizes}) must be pairs of height and width from 1 up; use [[1,1],[375,500]]")
    if not config.batches:
        raise ConfigError("batches (=[]) must have at least one batch size; use batches=[1,2]")
    if config.opset and config.format is not ExportFormat.onnx:
        raise ConfigError(f"opset (={config.opset}) must be null for format={config.format}; it belongs to format=onnx")
    run, suffix = Path(config.run or ""), config.format.suffix
    default = run / "export" / f"model{suffix}" if run.is_dir() else run.with_suffix(suffix)
    output = Path(config.output) if config.output else default
    if output.suffix != suffix or output.is_dir():
        raise ConfigError(f"output (={output}) must be a file that ends in {suffix}; use output=model{suffix}")
    return output


def _metadata(network: SegmentationNetwork, config: ExportConfig) -> dict[str, str]:
    """Return the description of inputs, outputs and origin that is stored in the exported file."""
    images = "uint8, 0 to 255" if config.input is ImageType.uint8 else "float32, 0 to 1"
    return {
        "classes": json.dumps(network.config.data.classes),
        "images": f"[batch, 3, height, width], RGB, {images}; any size from 1x1 up; normalised by the network",
        "logits": "float32 [batch, class, height, width]",
        "mask": "uint8 [batch, height, width], index of the class with the largest logit",
        "network": f"{network.config.model.name} on {network.config.backbone.name}",
        "provenance": json.dumps(provenance.software()),
        "verified": json.dumps({"sizes": config.sizes, "batches": config.batches, "tolerance": config.tolerance}),
    }


def _import_packages() -> dict[str, str]:
    """Import the packages that ONNX needs, and return their versions."""
    try:
        return {name: importlib.import_module(name).__version__ for name in ("onnx", "onnxscript", "onnxruntime")}
    except ImportError as error:
        raise ExportError(
            f'format (=onnx) needs the package {error.name}; install it with pip install -e ".[export]", '
            "or use format=torch_export"
        ) from error


def _write_onnx(program: ExportedProgram, file: Path, config: ExportConfig, metadata: Mapping[str, str]) -> None:
    exported = torch.onnx.export(
        program,
        (),
        input_names=["images"],
        output_names=["logits", "mask"],
        opset_version=config.opset,
        verbose=False,
    )
    assert exported is not None
    images, (logits, mask) = exported.model.graph.inputs[0], exported.model.graph.outputs
    assert images.shape is not None
    assert logits.shape is not None
    symbols = [str(images.shape[axis]) for axis in (0, 2, 3)]
    exported.rename_axes(dict(zip(symbols, ("batch", "height", "width"), strict=True)))
    # The exporter describes the output sizes by formulas of the crop, which are equal to the input sizes.
    shape = type(images.shape)
    logits.shape = shape(["batch", logits.shape[1], "height", "width"])
    mask.shape = shape(["batch", "height", "width"])
    exported.model.metadata_props.update(metadata)
    exported.save(file, external_data=False)


def _load_onnx(file: Path) -> Exported:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, mask = session.run(["logits", "mask"], {"images": images.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(mask)

    return network


def _write_pt2(program: ExportedProgram, file: Path, config: ExportConfig, metadata: Mapping[str, str]) -> None:
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata)})


def _load_pt2(file: Path) -> Exported:
    exported: Exported = torch.export.load(file).module()
    return exported
