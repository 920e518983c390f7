"""A trained network as one file for other programs: ONNX, or torch.export's .pt2; verified before it is there.

The exported network takes images of any number and size, from one image of 1x1 up, and normalises them itself.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
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
from fcn.errors import UserError
from fcn.inference.predictor import load_network
from fcn.models.network import SegmentationNetwork
from fcn.models.upsampling import Upsampling
from fcn.runs import provenance
from fcn.runs.atomic_files import replacing_files
from fcn.runs.checkpoints import find_checkpoint

Exported = Callable[[Tensor], tuple[Tensor, Tensor]]


class ExportError(UserError):
    """A network cannot be exported, or its exported form computes something else."""


@dataclass(frozen=True)
class Agreement:
    """How far the exported network agrees with PyTorch on `batch` random images of `size` (height, width).

    Attributes:
        difference: the largest of two logits.
        other_class: pixels to which the two give different classes; their two best logits are within tolerance.
    """

    size: tuple[int, int]
    batch: int
    difference: float
    other_class: int


class Deployed(nn.Module):
    """A network as it is exported: images in, logits and mask out.

    The numbers are the network's, on a copy of its model. Only memory is laid out plainly, since what depends on
    sizes of 1 makes a file that refuses them, and the upsampling is one operator.
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.model = copy.deepcopy(network.model).to(memory_format=torch.contiguous_format).requires_grad_(False).eval()
        for module in self.model.modules():
            if isinstance(module, Upsampling):
                module.algorithm = Algorithm.transposed
            elif isinstance(module, (Permute, LayerNorm2d)):
                module.register_forward_hook(_plainly)
        self.normalize = network.normalize

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 [N, C, H, W] and mask uint8 [N, H, W] of images [N, 3, H, W]."""
        logits = self.model(self.normalize(images))
        return logits, logits.argmax(dim=1).to(torch.uint8)


def _plainly(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Return the values in contiguous layout; `clone`, because `contiguous` specialises on axes of size 1."""
    return output.clone(memory_format=torch.contiguous_format)


def export(config: ExportConfig) -> tuple[Path, list[Agreement]]:
    """Write the network of a run as `config` says; the file is there once it is verified, or not at all.

    Returns:
        The file, and how it agrees with PyTorch for every size and batch.

    Raises:
        ConfigError, CheckpointError: if the keys are wrong, no checkpoint loads, or the file cannot be written.
        ExportError: if a package is missing, the exporter fails, or the exported network differs.
    """
    output = _output(config)
    packages = _import_packages() if config.format is ExportFormat.onnx else ()
    checkpoint = find_checkpoint(config.run)
    network = load_network(checkpoint)
    with _writing(output) as folder:
        file = folder / output.name
        metadata = {**_metadata(network, config), "run": str(checkpoint.resolve()), "packages": json.dumps(packages)}
        try:
            program = trace(network, config.input)
            (_write_onnx if config.format is ExportFormat.onnx else _write_pt2)(program, file, config, metadata)
        except Exception as error:  # the exporters raise almost anything
            problem = str(error).strip().splitlines() or [type(error).__name__]
            line = f"format (={config.format}) cannot be exported: {problem[0]}; HYDRA_FULL_ERROR=1 shows where"
            raise ExportError(line) from error
        exported = _load_onnx(file) if config.format is ExportFormat.onnx else _load_pt2(file)
        agreements = verify(exported, network, config)
    return output, agreements


def trace(network: SegmentationNetwork, images: ImageType) -> ExportedProgram:
    """Program of torch.export for any batch, height and width from 1 up."""
    example = random_images(2, (97, 130), images)
    dimensions = {0: Dim("batch", min=1), 2: Dim("height", min=1), 3: Dim("width", min=1)}
    # torch.export takes sizes of 1 for a case of their own unless this is set; torch.onnx.export sets it too.
    with torch.no_grad(), tracing.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            Deployed(network),
            (example,),
            dynamic_shapes=(dimensions,),
            # What cannot be proved about crops for all sizes is checked when the program runs.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def random_images(batch: int, size: tuple[int, int], images: ImageType) -> Tensor:
    """Return reproducible noise: uint8 [batch, 3, height, width], or float32 of the same values over 255."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=generator)
    return noise if images is ImageType.uint8 else noise / 255


@torch.no_grad()
def verify(exported: Exported, network: SegmentationNetwork, config: ExportConfig) -> list[Agreement]:
    """Compare `exported` with the network for every size and batch of `config`.

    Raises:
        ExportError: saying where the first difference beyond the tolerance is.
    """
    agreements = []
    for height, width in config.sizes:
        for batch in config.batches:
            images = random_images(batch, (height, width), config.input)
            where = f"{batch} x {height} x {width}"
            try:
                logits, mask = exported(images)
            except Exception as error:  # a guard of torch.export or a kernel of ONNX Runtime
                problem = str(error).strip().splitlines() or [type(error).__name__]
                raise ExportError(f"the exported network must run on {where} images, but: {problem[0]}") from error
            difference, other = _compare(logits, mask, network(images), tolerance=config.tolerance, where=where)
            agreements.append(Agreement((height, width), batch, difference, other))
    return agreements


def _compare(logits: Tensor, mask: Tensor, expected: Tensor, *, tolerance: float, where: str) -> tuple[float, int]:
    """Largest difference of logits, and number of pixels of another class."""
    remedy = f"on {where} images; raise tolerance (={tolerance:g}) only if that is rounding"
    if logits.shape != expected.shape or mask.shape != expected[:, 0].shape:
        raise ExportError(f"the exported network must give {tuple(expected.shape)}, not {tuple(logits.shape)} {remedy}")
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    differences = (logits - expected).abs().nan_to_num(nan=torch.inf)
    largest = float(differences.max())
    if largest > allowed:
        place = [int(index) for index in torch.unravel_index(differences.argmax(), differences.shape)]
        raise ExportError(
            f"the exported logits must be PyTorch's, but differ by {largest:.3g} at image, class, row, column "
            f"{place} {remedy}"
        )
    other = mask != expected.argmax(dim=1)
    best = expected.topk(2, dim=1).values
    wrong = other & (best[:, 0] - best[:, 1] > allowed)
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise ExportError(f"the exported mask must be PyTorch's, but differs at image, row, column {place} {remedy}")
    return largest, int(other.sum())


def _output(config: ExportConfig) -> Path:
    """The file to write, all keys checked."""
    if not config.sizes or any(len(size) != 2 or min(size) < 1 for size in config.sizes):
        raise ConfigError(f"sizes (={config.sizes}) must be pairs of height and width, from 1 up: [[1,1],[375,500]]")
    if not config.batches:
        raise ConfigError("batches (=[]) must name at least one number of images; use batches=[1,2]")
    if config.opset and config.format is not ExportFormat.onnx:
        raise ConfigError(f"opset (={config.opset}) must be null for format={config.format}; it belongs to format=onnx")
    run, suffix = Path(config.run or ""), config.format.suffix
    default = run / "export" / f"model{suffix}" if run.is_dir() else run.with_suffix(suffix)
    output = Path(config.output) if config.output else default
    if output.suffix != suffix or output.is_dir():
        raise ConfigError(f"output (={output}) must be a file that ends in {suffix}; use output=model{suffix}")
    return output


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files replace those beside `output` at the end.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    try:
        with replacing_files(output.parent) as folder:  # several files if the weights exceed protobuf's limit of 2 GB
            yield folder
    except OSError as error:
        raise ConfigError(
            f"output (={output}) must be a file that can be written: {error.strerror or error}"
        ) from error


def _metadata(network: SegmentationNetwork, config: ExportConfig) -> dict[str, str]:
    """What a program that uses the file needs to know, as text."""
    images = "uint8, 0 to 255" if config.input is ImageType.uint8 else "float32, 0 to 1"
    return {
        "classes": json.dumps(network.config.data.classes),
        "images": f"[batch, 3, height, width], RGB, {images}; any size from 1x1 up; normalised inside",
        "logits": "float32 [batch, class, height, width]",
        "mask": "uint8 [batch, height, width], index of the class with the largest logit",
        "network": f"{network.config.model.name} on {network.config.backbone.name}",
        "provenance": json.dumps(provenance.software()),
        "verified": json.dumps({"sizes": config.sizes, "batches": config.batches, "tolerance": config.tolerance}),
    }


def _import_packages() -> dict[str, str]:
    """Versions of the packages that ONNX needs."""
    try:
        return {name: importlib.import_module(name).__version__ for name in ("onnx", "onnxscript", "onnxruntime")}
    except ImportError as error:
        raise ExportError(
            f'format (=onnx) needs the package {error.name}; install it by pip install -e ".[export]", '
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
    # The exporter describes the crop at the end by formulas that come to the same.
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
