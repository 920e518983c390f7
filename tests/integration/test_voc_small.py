"""`experiment=voc_small` on genuine VOC images with genuine ImageNet weights."""

import json

import pytest

from tests.commands import type_in


@pytest.mark.slow
@pytest.mark.realdata
def test_voc_small_preset_trains(voc_sample, lite0_weights, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    own = (
        f"data.root={voc_sample}",
        "data.cache_dir=cache",  # keeps the sample unchanged
        f"backbone.weights={lite0_weights}",
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
