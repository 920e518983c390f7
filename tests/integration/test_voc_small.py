"""`experiment=voc_small` on genuine VOC images with genuine ImageNet weights."""

import json

import pytest

from tests.commands import SHARED, type_in

WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0-imagenet.pth"


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the genuine weights are not next to the checkout")
def test_voc_small_preset_trains(voc_sample, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    own = (
        f"data.root={voc_sample}",
        "data.cache_dir=cache",  # keeps the sample unchanged
        f"backbone.weights={WEIGHTS}",
        "epochs=1",
        "data.crop_size=[64,64]",
        "trainer=cpu",
    )
    status, out, err = type_in(monkeypatch, capsys, "experiment=voc_small", *own)
    assert status == 0, err
    assert "voc: 180 training and 60 validation images, 21 classes" in out
    (run,) = (tmp_path / "outputs" / "voc_small").iterdir()
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert metrics["val/pixel_accuracy"] > 0.1
    assert (run / "samples" / "epoch_001.png").is_file()
