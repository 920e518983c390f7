"""An exported network computes what PyTorch computes, for any size, and says what it takes; or there is no file."""

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

from fcn import config as configuration
from fcn.config import BackboneConfig, Config, DataConfig, ExportConfig, ModelConfig
from fcn.config.choices import Alignment, BackboneName, Border, ExportFormat, ImageType, ModelName
from fcn.errors import UserError
from fcn.inference import export
from fcn.inference.export import Agreement
from fcn.inference.predictor import load
from fcn.models.network import SegmentationNetwork
from tests import commands
from tests.commands import load_command

CLASSES = ["background", "cat", "dog"]
QUICK = {"sizes": [[1, 1], [33, 47]], "batches": [1, 2]}


script = load_command("export")


def checkpoint(path: Path, backbone: str, **model) -> Path:
    """Checkpoint of a random network whose skips are not zero, as after training."""
    torch.manual_seed(0)
    head = ModelConfig(**model)
    config = Config(
        name="x",
        data=DataConfig(classes=CLASSES),
        backbone=BackboneConfig(name=head.name.backbone or BackboneName(backbone)),
        model=head,
    )
    network = SegmentationNetwork(config)
    for name, parameter in network.named_parameters():
        if "skip_scores" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save({"config": configuration.to_container(config), "state_dict": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def fcn8s(tmp_path_factory) -> Path:
    head = {"name": ModelName.fcn8s, "alignment": Alignment.centered, "border": Border.replicate}
    return checkpoint(tmp_path_factory.mktemp("runs") / "fcn8s.ckpt", "squeezenet1_0", **head)


@pytest.fixture(scope="module")
def fcn32s(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("runs") / "fcn32s.ckpt", "squeezenet1_0", name=ModelName.fcn32s)


@pytest.fixture(scope="module")
def onnx_file(fcn8s) -> Path:
    return export.export(ExportConfig(run=str(fcn8s), **QUICK))[0]


@pytest.fixture
def type_in(monkeypatch, capsys):
    return lambda *arguments: commands.type_in(monkeypatch, capsys, *arguments, script=script)


def assert_masks_are_those_of_fcn_load(session, run: Path, *, sizes) -> None:
    """Image by image through the Python API, which uses the network as it was trained."""
    predictor = load(run)
    for batch, height, width in sizes:
        images = np.random.default_rng(height).integers(0, 256, (batch, height, width, 3), np.uint8)
        logits, mask = session.run(["logits", "mask"], {"images": images.transpose(0, 3, 1, 2)})
        assert (mask.dtype, mask.shape) == (np.uint8, (batch, height, width))
        expected = np.stack([predictor.logits(image).numpy() for image in images])
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(mask, np.stack([predictor.predict(image) for image in images]))


def test_onnx_gives_the_masks_of_fcn_load_for_any_size_and_batch(onnx_file, fcn8s):
    session = onnxruntime.InferenceSession(onnx_file)
    sizes = [(1, 1, 1), (3, 1, 1), (1, 2, 31), (2, 33, 47), (1, 64, 64), (3, 65, 17), (1, 1, 80)]
    assert_masks_are_those_of_fcn_load(session, fcn8s, sizes=sizes)


@pytest.mark.slow
def test_the_chapters_network_through_the_command(type_in, fcn32s, tmp_path):
    output = tmp_path / "new" / "folder" / "net.onnx"
    status, out, err = type_in(f"run={fcn32s}", f"output={output}", "sizes=[[1,1],[40,50]]", "batches=[1]")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == str(output)
    assert f"{output.stat().st_size / 1e6:.1f} MB" in out
    assert [line.split()[1:4:2] for line in out.splitlines() if " x " in line][1:] == [["1", "1"], ["40", "50"]]
    assert list(output.parent.iterdir()) == [output]
    sizes = [(1, 1, 1), (2, 7, 90), (1, 33, 16)]
    assert_masks_are_those_of_fcn_load(onnxruntime.InferenceSession(output), fcn32s, sizes=sizes)


def test_the_file_says_what_it_is(onnx_file, fcn8s):
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(told["classes"]) == CLASSES
    assert told["images"].startswith("[batch, 3, height, width], RGB, uint8, 0 to 255; any size from 1x1 up")
    assert told["network"] == "fcn8s on squeezenet1_0"
    assert told["run"] == str(fcn8s)
    assert json.loads(told["packages"])["onnx"] == onnx.__version__
    assert json.loads(told["provenance"])["versions"]["torch"] == version("torch")
    assert json.loads(told["verified"]) == {**QUICK, "tolerance": 1e-3}
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
def test_torch_export_of_a_run_directory_with_float_images(fcn32s, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(fcn32s.read_bytes())
    config = ExportConfig(run=str(tmp_path), format=ExportFormat.torch_export, input=ImageType.float, **QUICK)
    path, found = export.export(config)
    assert path == tmp_path / "export" / "model.pt2"
    assert [(entry.size, entry.batch) for entry in found] == [((1, 1), 1), ((1, 1), 2), ((33, 47), 1), ((33, 47), 2)]
    told = {"metadata.json": ""}
    network = torch.export.load(path, extra_files=told).module()
    assert json.loads(told["metadata.json"])["images"].endswith(
        "float32, 0 to 1; any size from 1x1 up; normalised inside"
    )
    image = np.random.default_rng(0).integers(0, 256, (5, 70, 3), np.uint8)
    # Floats as torchvision has them, and the uint8 image of the Python API, are one image.
    logits, mask = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(logits[0], load(fcn32s).logits(image), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(mask[0], load(fcn32s).predict(image))


NETWORKS = [
    pytest.param("convnext_tiny", {"name": ModelName.fcn32s, "border": Border.replicate}, marks=pytest.mark.exhaustive),
    pytest.param("resnet18", {"name": ModelName.fcn32s}, marks=pytest.mark.exhaustive),
    pytest.param("mobilenet_v3_large", {"name": ModelName.fcn32s}, marks=pytest.mark.exhaustive),
    pytest.param("", {"name": ModelName.lraspp_mobilenet_v3_large}, marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("backbone", "model"), NETWORKS, ids=lambda value: value if isinstance(value, str) else None)
def test_other_networks_take_any_size(tmp_path, backbone, model):
    run = checkpoint(tmp_path / "run.ckpt", backbone, **model)
    path, _ = export.export(ExportConfig(run=str(run), **QUICK))
    sizes = [(1, 1, 1), (2, 33, 31), (1, 64, 97)]
    assert_masks_are_those_of_fcn_load(onnxruntime.InferenceSession(path), run, sizes=sizes)


@pytest.fixture
def no_tracing(monkeypatch):
    """The exporters take seconds; what they give is replaced by the network itself, behind an empty file."""
    written: list[SegmentationNetwork] = []
    monkeypatch.setattr(export, "trace", lambda network, images: written.append(network))
    monkeypatch.setattr(export, "_write_onnx", lambda program, file, config, metadata: file.touch())
    monkeypatch.setattr(export, "_load_onnx", lambda file: export.Deployed(written[-1]))


def _moved(logits, mask):
    logits = logits.clone()
    logits[0, 1, 2, 3] += 1
    return logits, mask


def _other_class(logits, mask):
    mask = mask.clone()
    mask[0, 2, 3] = logits[0, :, 2, 3].argmin()
    return logits, mask


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            _moved,
            r"logits must be PyTorch's, but differ by .* at image, class, row, column \[0, 1, 2, 3\] on 1 x 5 x 6",
        ),
        (_other_class, r"mask must be PyTorch's, but differs at image, row, column \[0, 2, 3\] on 1 x 5 x 6 images"),
        (lambda logits, mask: (logits * torch.nan, mask), r"logits must be PyTorch's, but differ by inf"),
        (
            lambda logits, mask: (logits[..., 1:], mask),
            r"network must give \(1, 3, 5, 6\), not \(1, 3, 5, 5\) on 1 x 5 x 6",
        ),
        (lambda logits, mask: 1 / 0, r"network must run on 1 x 5 x 6 images, but: division by zero"),
    ],
)
def test_a_network_that_differs_leaves_no_file(no_tracing, type_in, fcn8s, tmp_path, monkeypatch, broken, message):
    whole = export.Deployed.forward
    monkeypatch.setattr(export.Deployed, "forward", lambda network, images: broken(*whole(network, images)))
    output = tmp_path / "made" / "net.onnx"
    status, out, err = type_in(f"run={fcn8s}", f"output={output}", "sizes=[[5,6]]")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.match(f"error: the exported {message}", err), err
    assert list(tmp_path.iterdir()) == []


def test_what_is_measured_is_told(no_tracing, fcn8s, tmp_path, monkeypatch):
    whole = export.Deployed.forward
    monkeypatch.setattr(export.Deployed, "forward", lambda *inputs: _moved(*whole(*inputs)))
    config = ExportConfig(run=str(fcn8s), output=str(tmp_path / "a.onnx"), sizes=[[5, 6]], batches=[2], tolerance=1.0)
    path, found = export.export(config)
    assert path.is_file()
    assert found == [Agreement((5, 6), 2, pytest.approx(1, abs=1e-4), found[0].other_class)]


def test_an_exporter_that_fails_is_one_line(type_in, fcn8s, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "trace", lambda network, images: 1 / 0)
    status, _, err = type_in(f"run={fcn8s}", f"output={tmp_path}/a.onnx")
    assert status == 1
    assert err == "error: format (=onnx) cannot be exported: division by zero; HYDRA_FULL_ERROR=1 shows where\n"
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_the_line_says_how_to_get_them(type_in, fcn8s, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, _, err = type_in(f"run={fcn8s}")
    assert status == 1
    assert err == (
        'error: format (=onnx) needs the package onnxscript; install it by pip install -e ".[export]", '
        "or use format=torch_export\n"
    )


def test_an_output_that_cannot_be_written(type_in, fcn8s, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = type_in(f"run={fcn8s}", f"output={tmp_path}/file/a.onnx")
    assert status == 1
    assert err.startswith(f"error: output (={tmp_path}/file/a.onnx) must be a file that can be written: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=null"], "run (=null) must be a run directory or a checkpoint"),
        (["run=nowhere"], "nowhere must be an existing run directory or checkpoint"),
        (["sizes=[[0,4]]"], "sizes (=[[0, 4]]) must be pairs of height and width, from 1 up: [[1,1],[375,500]]"),
        (["sizes=[]"], "sizes (=[]) must be pairs"),
        (["batches=[]"], "batches (=[]) must name at least one number of images; use batches=[1,2]"),
        (["opset=3"], "opset (=3) must be at least 18"),
        (["opset=20", "format=torch_export"], "opset (=20) must be null for format=torch_export; it belongs to"),
        (["output=net.pt"], "output (=net.pt) must be a file that ends in .onnx; use output=model.onnx"),
        (["format=onx"], "format (=onx) must be one of onnx, torch_export; did you mean onnx?"),
    ],
)
def test_a_mistake_is_one_line_and_no_file(type_in, fcn32s, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = type_in(f"run={fcn32s}", *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_wrong_keys_from_python(fcn32s):
    with pytest.raises(UserError, match=r"run .* must be a run directory"):
        export.export(ExportConfig())
