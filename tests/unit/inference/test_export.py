"""Exported networks give the results of PyTorch for any size and describe themselves; otherwise no file is written."""

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import fcn
from fcn import config as configuration
from fcn.config import Config, ExportConfig, option
from fcn.config.choices import Alignment, Border, ExportFormat, ImageType, TorchvisionModel
from fcn.data.dataset_options import VocData
from fcn.inference import export
from fcn.inference.export import Agreement
from fcn.models.network import SegmentationNetwork
from tests import commands
from tests.commands import load_command

CLASSES = ["background", "cat", "dog"]
QUICK = {"sizes": [[1, 1], [33, 47]], "batches": [1, 2]}

script = load_command("export")


def save_checkpoint(path: Path, backbone: str, model: str, *, architecture: str | None = None, **keys) -> Path:
    """Save a randomly initialised network whose skip layers are not zero, as after training."""
    torch.manual_seed(0)
    head = option("model", model, **keys)
    backbone_config = option("backbone", backbone, **({"name": architecture} if architecture else {}))
    network = SegmentationNetwork(Config(name="x", data=VocData(classes=CLASSES), backbone=backbone_config, model=head))
    for name, parameter in network.named_parameters():
        if "skip_scores" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save({"config": configuration.to_container(network.config), "state_dict": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def fcn8s(tmp_path_factory) -> Path:
    keys = {"alignment": Alignment.centered, "border": Border.replicate}
    return save_checkpoint(tmp_path_factory.mktemp("runs") / "fcn8s.ckpt", "squeezenet1_0", "fcn8s", **keys)


@pytest.fixture(scope="module")
def fcn32s(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("runs") / "fcn32s.ckpt", "squeezenet1_0", "fcn32s")


@pytest.fixture(scope="module")
def onnx_file(fcn8s) -> Path:
    return export.export(ExportConfig(run=str(fcn8s), **QUICK))[0]


@pytest.fixture
def type_in(monkeypatch, capsys):
    return lambda *arguments: commands.type_in(monkeypatch, capsys, *arguments, script=script)


def assert_equal_to_python_api(file: Path, run: Path, *, sizes) -> None:
    """Compare logits and masks of an ONNX file with those of `fcn.load`, image by image."""
    predictor, session = fcn.load(run), onnxruntime.InferenceSession(file)
    for batch, height, width in sizes:
        images = np.random.default_rng(height).integers(0, 256, (batch, height, width, 3), np.uint8)
        logits, mask = session.run(["logits", "mask"], {"images": images.transpose(0, 3, 1, 2)})
        assert (mask.dtype, mask.shape) == (np.uint8, (batch, height, width))
        expected = np.stack([predictor.logits(image).numpy() for image in images])
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(mask, np.stack([predictor.predict(image) for image in images]))


def test_onnx_equals_python_api_for_any_size_and_batch(onnx_file, fcn8s):
    sizes = [(1, 1, 1), (3, 1, 1), (1, 2, 31), (2, 33, 47), (1, 64, 64), (3, 65, 17), (1, 1, 80)]
    assert_equal_to_python_api(onnx_file, fcn8s, sizes=sizes)


@pytest.mark.slow
def test_command_exports_fcn32s(type_in, fcn32s, tmp_path):
    output = tmp_path / "new" / "folder" / "net.onnx"
    status, out, err = type_in(f"run={fcn32s}", f"output={output}", "sizes=[[1,1],[40,50]]", "batches=[1]")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == str(output)
    assert f"{output.stat().st_size / 1e6:.1f} MB" in out
    assert [line.split()[1:4:2] for line in out.splitlines() if " x " in line][1:] == [["1", "1"], ["40", "50"]]
    assert list(output.parent.iterdir()) == [output]
    assert_equal_to_python_api(output, fcn32s, sizes=[(1, 1, 1), (2, 7, 90), (1, 33, 16)])


def test_onnx_file_describes_its_axes_and_origin(onnx_file, fcn8s):
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == CLASSES
    assert metadata["images"].startswith("[batch, 3, height, width], RGB, uint8, 0 to 255; any size from 1x1 up")
    assert metadata["network"] == "fcn8s on squeezenet1_0"
    assert metadata["run"] == str(fcn8s)
    assert json.loads(metadata["packages"])["onnx"] == onnx.__version__
    assert json.loads(metadata["provenance"])["versions"]["torch"] == version("torch")
    assert json.loads(metadata["verified"]) == {**QUICK, "tolerance": 1e-3}
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert axes == {
        "images": ["batch", 3, "height", "width"],
        "logits": ["batch", 3, "height", "width"],
        "mask": ["batch", "height", "width"],
    }


@pytest.mark.slow
def test_torch_export_of_a_run_directory_accepts_float_images(fcn32s, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(fcn32s.read_bytes())
    config = ExportConfig(run=str(tmp_path), format=ExportFormat.torch_export, input=ImageType.float, **QUICK)
    path, agreements = export.export(config)
    assert path == tmp_path / "export" / "model.pt2"
    verified = [(agreement.size, agreement.batch) for agreement in agreements]
    assert verified == [((1, 1), 1), ((1, 1), 2), ((33, 47), 1), ((33, 47), 2)]
    extra_files = {"metadata.json": ""}
    network = torch.export.load(path, extra_files=extra_files).module()
    assert "float32, 0 to 1; any size from 1x1 up" in json.loads(extra_files["metadata.json"])["images"]
    image = np.random.default_rng(0).integers(0, 256, (5, 70, 3), np.uint8)
    logits, mask = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(logits[0], fcn.load(fcn32s).logits(image), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(mask[0], fcn.load(fcn32s).predict(image))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("backbone", "model"),
    [
        ("convnext_tiny", {"model": "fcn32s", "border": Border.replicate}),
        ("resnet18", {"model": "fcn32s"}),
        ("mobilenet_v3_large", {"model": "fcn32s"}),
        ("mobilenet_v3_large", {"model": "torchvision", "name": TorchvisionModel.lraspp_mobilenet_v3_large}),
    ],
)
def test_other_networks_are_exported_for_any_size(tmp_path, backbone, model):
    run = save_checkpoint(tmp_path / "run.ckpt", backbone, **model)
    path, _ = export.export(ExportConfig(run=str(run), **QUICK))
    assert_equal_to_python_api(path, run, sizes=[(1, 1, 1), (2, 33, 31), (1, 64, 97)])


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 6), (13, 31)])
@pytest.mark.parametrize("cells", [2, 3, (6, 4)])
def test_grid_pool_equals_torch(size, cells):
    pool, features = torch.nn.AdaptiveAvgPool2d(cells), torch.randn(2, 3, *size)
    torch.testing.assert_close(export.GridPool(pool)(features), pool(features))


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        "tf_mobilenetv3_small_minimal_100",  # with padding that depends on the size
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("resnet10t", "test_convnext")),
    ],
)
def test_networks_on_timm_backbones_are_exported_for_any_size(tmp_path, architecture):
    run = save_checkpoint(tmp_path / "timm.ckpt", "timm", "fcn8s", architecture=architecture)
    file, agreements = export.export(ExportConfig(run=str(run), **QUICK))
    assert len(agreements) == 4
    assert_equal_to_python_api(file, run, sizes=[(1, 1, 1), (2, 40, 65)])


@pytest.fixture
def no_tracing(monkeypatch):
    """Skip the exporter, which takes seconds: the file is empty, and the network itself is verified."""
    networks: list[SegmentationNetwork] = []
    monkeypatch.setattr(export, "trace", lambda network, images: networks.append(network))
    monkeypatch.setattr(export, "_write_onnx", lambda program, file, config, metadata: file.touch())
    monkeypatch.setattr(export, "_load_onnx", lambda file: export.Deployed(networks[-1]))


def change_a_logit(logits, mask):
    logits = logits.clone()
    logits[0, 1, 2, 3] += 1
    return logits, mask


def change_a_class(logits, mask):
    mask = mask.clone()
    mask[0, 2, 3] = logits[0, :, 2, 3].argmin()
    return logits, mask


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_a_logit, r"logits must equal .* at image, class, row, column \[0, 1, 2, 3\] on 1 x 5 x 6 images"),
        (change_a_class, r"mask must equal .* at image, row, column \[0, 2, 3\] on 1 x 5 x 6 images"),
        (lambda logits, mask: (logits * torch.nan, mask), r"logits must equal PyTorch's, but differ by inf"),
        (
            lambda logits, mask: (logits[..., 1:], mask),
            r"logits must have the shape \(1, 3, 5, 6\), not \(1, 3, 5, 5\)",
        ),
        (lambda logits, mask: 1 / 0, r"network must accept 1 x 5 x 6 images, but fails: division by zero"),
    ],
)
def test_different_results_leave_no_file(no_tracing, type_in, fcn8s, tmp_path, monkeypatch, change, message):
    forward = export.Deployed.forward
    monkeypatch.setattr(export.Deployed, "forward", lambda network, images: change(*forward(network, images)))
    status, out, err = type_in(f"run={fcn8s}", f"output={tmp_path}/new/net.onnx", "sizes=[[5,6]]")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.match(f"error: the exported {message}", err), err
    assert list(tmp_path.iterdir()) == []


def test_difference_within_the_tolerance_is_returned(no_tracing, fcn8s, tmp_path, monkeypatch):
    forward = export.Deployed.forward
    monkeypatch.setattr(export.Deployed, "forward", lambda *inputs: change_a_logit(*forward(*inputs)))
    config = ExportConfig(run=str(fcn8s), output=str(tmp_path / "a.onnx"), sizes=[[5, 6]], batches=[2], tolerance=1.0)
    path, agreements = export.export(config)
    assert path.is_file()
    assert agreements == [Agreement((5, 6), 2, pytest.approx(1, abs=1e-4), agreements[0].other_class)]


def test_failing_exporter_gives_a_one_line_error(type_in, fcn8s, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "trace", lambda network, images: 1 / 0)
    status, _, err = type_in(f"run={fcn8s}", f"output={tmp_path}/a.onnx")
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("error: format (=onnx) cannot be exported: division by zero; HYDRA_FULL_ERROR=1 shows")
    assert list(tmp_path.iterdir()) == []


def test_missing_package_gives_an_error_with_the_extra_to_install(type_in, fcn8s, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, _, err = type_in(f"run={fcn8s}")
    assert status == 1
    assert err.startswith(
        'error: format (=onnx) needs the package onnxscript; install it with pip install -e ".[export'
    )


def test_file_in_the_path_of_the_output_gives_an_error(type_in, fcn8s, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = type_in(f"run={fcn8s}", f"output={tmp_path}/file/a.onnx")
    assert status == 1
    assert err.startswith(f"error: {tmp_path}/file: Not a directory; ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=null"], "run (=null) must be a run directory or a checkpoint"),
        (["sizes=[[0,4]]"], "sizes (=[[0, 4]]) must be pairs of height and width from 1 up"),
        (["sizes=[]"], "sizes (=[]) must be pairs"),
        (["batches=[]"], "batches (=[]) must have at least one batch size"),
        (["opset=3"], "opset (=3) must be at least 18"),
        (["opset=20", "format=torch_export"], "opset (=20) must be null for format=torch_export"),
        (["output=net.pt"], "output (=net.pt) must be a file that ends in .onnx"),
    ],
)
def test_invalid_keys_give_a_one_line_error(type_in, fcn32s, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = type_in(f"run={fcn32s}", *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []
