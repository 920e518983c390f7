"""FCN-16s starts from the weights of FCN-32s, as in the papers, and logs the copied tensors."""

import json

import pytest
import torch

from fcn import runs
from tests.commands import TINY, type_in

SMALL = (
    *TINY, "epochs=1", "data.shapes.num_train=8", "data.shapes.num_val=2", "trainer=cpu", "trainer.sample_images=0",
)  # fmt: skip
SKIPS = [f"skip_{layer}.0.{kind}" for layer in ("scores", "upscores") for kind in ("weight", "bias")]


@pytest.fixture
def train(monkeypatch, capsys, tmp_path, shapes_root):
    """Run a training; its exit status, output and run directory."""
    monkeypatch.chdir(tmp_path)

    def run(name, *overrides):
        arguments = (*SMALL, f"data.root={shapes_root}", f"name={name}", "backbone=squeezenet1_0", *overrides)
        status, out, err = type_in(monkeypatch, capsys, *arguments)
        return status, out + err, next((tmp_path / "outputs" / name).iterdir())

    return run


def weights(run):
    return torch.load(run / runs.LAST, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_finer_network_starts_from_a_coarser_one(train, monkeypatch, capsys):
    status, out, coarse = train("coarse", "model=fcn32s")
    assert status == 0, out
    # With a learning rate of zero the checkpoint holds the copied weights.
    status, out, fine = train("fine", "model=fcn16s", f"model.init_from={coarse}", "lr=0", "optim.weight_decay=0")
    assert status == 0, out
    before, after = weights(coarse), weights(fine)
    trained = [name for name in before if name.startswith("model.") and "upscore.weight" not in name]
    assert len(trained) > 50
    assert all(torch.equal(after[name], before[name]) for name in trained)
    lines = (fine / "train.log").read_text()
    kept = ["model.upscore.weight", *(f"model.{name}" for name in SKIPS)]
    copied, total = len(trained), len(trained) + len(kept)
    assert f"weights  {copied} of {total} tensors copied from {coarse}" in lines
    (initialised,) = [line for line in lines.splitlines() if "initialised: " in line]
    names = initialised.partition("initialised: ")[2].split(", ")
    assert sorted(names) == sorted(name.removeprefix("model.") for name in kept)
    assert "not used: upscore.weight" in lines
    assert out.count("tensors copied") == 1

    # A resumed run keeps its own weights.
    summary = json.loads((fine / "summary.json").read_text())
    (fine / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    status, out, _ = (*type_in(monkeypatch, capsys, f"resume={fine}")[:2], None)
    assert status == 0, out
    assert "tensors copied" not in out
    assert (fine / "train.log").read_text().count("tensors copied") == 1

    # The coarsest maps of both backbones have 512 channels, but a matching score layer alone is not enough.
    status, out, _ = train("other", "backbone=resnet18", f"model.init_from={coarse}")
    assert status == 1
    assert f"error: model.init_from (={coarse}) must fit the network; use a run with the same backbone" in out
