"""Presets of recipes that others published: a few steps of each, from weights in the folder of torch hub."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import fcn
from fcn import runs
from tests.commands import load_command, only_entry, type_in
from tests.voc_tree import make_voc_tree

# Small images, crops and numbers; everything else is the recipe.
SMALL = (
    "data.root=voc", "data.crop_size=[56,56]", "data.augmentation.short_side=48", "batch_size=2", "steps=2",
    "trainer=cpu", "trainer.val_every_steps=2", "trainer.sample_images=1",
    "data.num_workers=0",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with a VOC tree `voc`, which has SBD's masks, and an empty folder of torch hub."""
    masks = {f"2007_{number:06d}": np.arange(40 * 56).reshape(40, 56) // 200 % 21 for number in range(4)}
    first, second = list(masks)[:2], list(masks)[2:]
    make_voc_tree(tmp_path / "voc", masks, {"train": first, "val": second})
    aug = {name: masks[name] for name in first}
    make_voc_tree(tmp_path / "voc", aug, {"train_aug": first}, mask_folder="SegmentationClassAug")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_weights(name: str) -> dict[str, torch.Tensor]:
    """Write weights of an architecture of timm to the folder of torch hub, as a download would."""
    torch.manual_seed(7)
    state = timm.create_model(name).state_dict()
    file = Path("torch/hub/checkpoints") / f"{name}.pth"
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    return state


def kernels(state: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the kernels of convolutions and linear layers of a backbone, which are random at first."""
    return [name for name, value in state.items() if value.ndim > 1 and not name.startswith(("fc.", "head."))]


def relative_change(after: torch.Tensor, before: torch.Tensor) -> float:
    """Return the distance of two kernels as a share of their norm: about 1.4 for two random initialisations."""
    return float((after - before).norm() / before.norm())


@pytest.mark.parametrize(
    ("preset", "architecture"),
    [
        pytest.param("fcn_r50_d8", "resnet50c.gluon_in1k", marks=pytest.mark.slow),
        pytest.param("fcn_r101_d8", "resnet101c.gluon_in1k", marks=pytest.mark.exhaustive),
        pytest.param("fcn_dinov2", "vit_small_patch14_dinov2.lvd142m", marks=pytest.mark.slow),
    ],
)
def test_preset_trains_from_published_weights_and_is_evaluated(folder, monkeypatch, capsys, preset, architecture):
    weights = write_weights(architecture)
    status, out, err = type_in(monkeypatch, capsys, f"experiment={preset}", *SMALL)
    assert status == 0, err
    assert f"timm's {architecture} (weights: {architecture}, licence apache-2.0" in out
    run = only_entry(folder / "outputs" / preset)
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    trained = {name.removeprefix("model.backbone.layers."): value for name, value in state.items()}
    changes = {name: relative_change(trained[name], weights[name]) for name in kernels(weights)}
    assert changes.keys() <= trained.keys()
    if preset == "fcn_dinov2":
        assert all(torch.equal(trained[name], value) for name, value in weights.items() if name in trained)
    else:
        assert 0 < max(changes.values()) < 0.2
    arguments = (f"run={run}", "scales=[1.37]", "accelerator=cpu")
    status, out, err = type_in(monkeypatch, capsys, *arguments, script=load_command("evaluate"))
    assert status == 0, err
    assert "mean IoU" in out
    mask = fcn.load(run).predict(np.zeros((41, 30, 3), np.uint8))
    assert mask.shape == (41, 30)


@pytest.mark.slow
@pytest.mark.realdata
def test_d2l_preset_trains_another_backbone_from_a_file(voc_sample, lite0_weights, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    backbone = ("backbone=timm", "backbone.name=tf_efficientnet_lite0", f"backbone.weights={lite0_weights}")
    small = ("data.crop_size=[64,64]", "data.limit=8", "batch_size=4", "epochs=1", "trainer=cpu", "data.num_workers=0")
    data = (f"data.root={voc_sample}", "data.cache_dir=cache")  # keeps the sample unchanged
    status, out, err = type_in(monkeypatch, capsys, "experiment=d2l", *backbone, *data, *small)
    assert status == 0, err
    assert "fcn32s on timm's tf_efficientnet_lite0" in out
    metrics = runs.read_summary(only_entry(tmp_path / "outputs" / "d2l"))["metrics"]
    assert {"d2l/train_loss", "d2l/train_acc", "d2l/test_acc", "val/mean_iou"} <= metrics.keys()
