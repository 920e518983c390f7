"""Dry run: one process of many, without the others."""

import re

import pytest
import torch

import fcn
from fcn.config.composition import compose
from fcn.models.network import SegmentationNetwork
from fcn.training import dry_run as dry_runs
from fcn.training.dry_run import dry_run, try_batch_sizes
from tests.commands import TINY, type_in

SMALL = (*TINY, "data.crop_size=[32,32]", "trainer.accumulate=2")


def cells(out: str) -> dict[str, str]:
    """Return the table of a dry run by the names of its rows."""
    lines = out[out.index("dry run of") :].splitlines()[1:]
    return dict(re.split(r"  +", line, maxsplit=1) for line in lines)


@pytest.mark.slow
def test_command_prints_the_shares_of_64_processes_and_creates_no_run(fresh_command):
    overrides = (*SMALL, "data.shapes.num_train=300", "data.shapes.num_val=70", "batch_size=128", "epochs=3")
    options = ("backbone=squeezenet1_0", "callbacks=[ema]", "lr=0.01", "trainer.dry_run_processes=64")
    done = fresh_command(*overrides, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in fresh_command.folder.iterdir()] == ["data"]
    assert "dry run of 64 processes: step 2 of rank 0 on CPU" in done.stdout
    network = SegmentationNetwork(compose(*overrides, *options), pretrained=False)
    sizes = [parameter.numel() for parameter in network.parameters()]
    table = cells(done.stdout)
    assert float(table.pop("peak memory").removesuffix(" MiB per process")) > 100
    assert float(table.pop("seconds per step").partition(" ")[0]) > 0
    assert re.fullmatch(r"[\d,]+ bytes per step in [1-9] buckets", table["gradients"])
    assert table.pop("gradients").partition(" ")[0] == f"{4 * sum(sizes):,}"
    assert table == {
        "processes": "64",
        "batch": "128 images: 2 per process, 1 per part",
        "steps": "2 per epoch, 6 in total",
        "learning rate": "0.01 at step 1, 0.01 at its peak",  # no warm-up: a tenth of 6 steps
        "images": "uint8 [2, 3, 32, 32]",
        "logits": "float32 [1, 6, 32, 32] per part",
        "training images": "4 per process and epoch",
        "validation images": "1 to 2 per process",
        "parameters": f"{sum(sizes):,}, of which {sum(sizes):,} are trained",
        "ring all-reduce": f"{2 * 63 * 4 * sum(sizes) // 64:,} bytes sent by each process per step",
        "sync batch norm": "off",
        # AdamW: two moments per weight, and the number of steps of each tensor.
        "optimiser state": f"{2 * 4 * sum(sizes) + 4 * len(sizes):,} bytes per process",
    }


def test_traffic_of_synchronised_batch_norm_is_counted_without_a_gpu(shapes_root):
    config = compose(
        *SMALL, f"data.root={shapes_root}", "trainer.sync_batchnorm=true", "trainer.dry_run_processes=2",
        "backbone=resnet18", "optim=sgd", "optim.momentum=0", "backbone.lr_multiplier=0.5",
    )  # fmt: skip
    # ResNet-18 has 20 batch norms of 5 x (64 + 128 + 256 + 512) = 4800 channels; a step has two parts. In fp32, mean
    # and deviation of a channel and the count of a layer are gathered, and two sums of a channel are added up.
    gathered, summed = 2 * 4 * (2 * 4800 + 20), 2 * 4 * 2 * 4800
    table = dry_run(config)
    assert table["sync batch norm"] == (
        f"40 calls per step: {gathered:,} bytes sent to each other process, {summed:,} bytes summed"
    )
    assert table["optimiser state"] == "0 bytes per process"  # momentum 0
    # All batch norms are recomputed: they gather twice, and sum once.
    config.trainer.activation_checkpointing = True
    assert dry_run(config)["sync batch norm"] == (
        f"80 calls per step: {2 * gathered:,} bytes sent to each other process, {summed:,} bytes summed"
    )


def test_frozen_backbone_has_no_gradients(shapes_root):
    config = compose(
        *SMALL, f"data.root={shapes_root}", "backbone=resnet18", "backbone.trainable=false",
        "trainer.dry_run_processes=2", "trainer.sync_batchnorm=true", "model=linear_head",
    )  # fmt: skip
    table = dry_run(config)
    trained = 2 * 512 + 512 * 6 + 6  # batch norm and a 1x1 convolution to six classes
    assert table["parameters"].endswith(f", of which {trained:,} are trained")
    assert table["gradients"] == f"{4 * trained:,} bytes per step in 1 buckets"
    # The gradient of the input of the only batch norm in training mode is not computed, nor are its sums.
    assert table["sync batch norm"] == (
        f"2 calls per step: {2 * 4 * (2 * 512 + 1):,} bytes sent to each other process, 0 bytes summed"
    )


def batch_sizes(shapes_root, *sizes: int):
    """Return the configuration of a dry run of one process with these batch sizes."""
    return compose(
        *SMALL, f"data.root={shapes_root}", "trainer.accumulate=1", "backbone=squeezenet1_0",
        "trainer.dry_run_processes=1", f"trainer.dry_run_batch_sizes=[{','.join(map(str, sizes))}]",
    )  # fmt: skip


def test_batch_sizes_are_tried_in_ascending_order(shapes_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ("trainer.dry_run_processes=1", "trainer.dry_run_batch_sizes=[8,2,4]", f"data.root={shapes_root}")
    status, out, err = type_in(monkeypatch, capsys, *SMALL, *options, "backbone=squeezenet1_0")
    assert (status, err) == (0, "")
    title, *lines, largest = out[out.index("dry run of") :].splitlines()
    assert title.startswith("dry run of 1 process: step 2 of rank 0 on CPU")
    rows = [
        re.fullmatch(r" +(\d+) images  peak memory (\d+) MiB and [\d.]+ images/s per process", row) for row in lines
    ]
    assert [int(row[1]) for row in rows] == [2, 4, 8]
    assert int(rows[0][2]) <= int(rows[1][2]) <= int(rows[2][2])
    assert largest == "largest of these that fits: batch_size=8"
    assert not list(tmp_path.iterdir())


def test_images_of_a_dry_run_of_one_process_are_the_whole_batch(shapes_root):
    ((size, step),) = try_batch_sizes(batch_sizes(shapes_root, 4))
    assert size == 4
    assert step.table["images"] == "uint8 [4, 3, 32, 32]"
    assert step.table["ring all-reduce"] == "0 bytes sent by each process per step"


def test_batch_size_that_is_out_of_memory_is_the_last(shapes_root, monkeypatch, capsys):
    all_logits, tried = SegmentationNetwork.all_logits, []

    def limited(network, images):
        tried.append(len(images))
        if len(images) > 4 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
        return all_logits(network, images)

    monkeypatch.setattr(SegmentationNetwork, "all_logits", limited)
    fitting = try_batch_sizes(batch_sizes(shapes_root, 2, 4, 8, 16))
    assert [size for size, _ in fitting] == [2, 4]
    assert set(tried) == {2, 4, 8}
    assert capsys.readouterr().out.endswith("    8 images  out of memory\nlargest of these that fits: batch_size=4\n")


def test_batch_size_beyond_the_main_memory_is_not_tried(shapes_root, monkeypatch, capsys):
    peaks = iter([1000.0, 1200.0])
    monkeypatch.setattr(dry_runs, "peak_memory_mib", lambda device: next(peaks))
    monkeypatch.setattr(dry_runs, "main_memory", lambda: 1500 * 2**20)
    fitting = try_batch_sizes(batch_sizes(shapes_root, 2, 4, 8))
    assert [size for size, _ in fitting] == [2, 4]
    assert "    8 images  not tried: about 1600 of 1500 MiB per process\n" in capsys.readouterr().out


def test_batch_size_that_is_not_tried_need_not_fit_the_processes():
    compose("trainer.dry_run_processes=64", "trainer.dry_run_batch_sizes=[64,128]", "batch_size=16")
    with pytest.raises(fcn.errors.UserError, match=r"batch_size \(=96\) must be divisible"):
        compose("trainer.dry_run_processes=64", "trainer.dry_run_batch_sizes=[64,96]", "batch_size=16")


def test_batch_size_above_the_number_of_images_is_refused_before_the_first_step(shapes_root, capsys):
    with pytest.raises(fcn.errors.UserError, match=r"batch_size \(=32\) must not exceed the 16 images"):
        try_batch_sizes(batch_sizes(shapes_root, 2, 32))
    assert "images/s" not in capsys.readouterr().out


def test_dry_run_of_one_step_is_refused(shapes_root):
    config = compose(*SMALL, f"data.root={shapes_root}", "trainer.dry_run_processes=1", "epochs=null", "steps=1")
    with pytest.raises(fcn.errors.UserError, match=r"must have 2 steps, .* has 1; use steps=2"):
        dry_run(config)


@pytest.mark.parametrize(
    "overrides",
    [
        ("batch_size=6",),
        ("batch_size=8", "trainer.accumulate=4"),
        ("model=torchvision", "model.name=deeplabv3_resnet50", "batch_size=4"),
    ],
)
def test_rules_of_the_number_of_processes_are_those_of_a_run(monkeypatch, capsys, tmp_path, overrides):
    monkeypatch.chdir(tmp_path)
    arguments = ("trainer.accelerator=cpu", *overrides)
    real = type_in(monkeypatch, capsys, *arguments, "trainer.devices=4")
    # The number replaces that of trainer=ddp_cpu, which is two.
    dry = type_in(monkeypatch, capsys, "trainer=ddp_cpu", *arguments, "trainer.dry_run_processes=4")
    assert dry == real
    assert re.search(r"4\b", dry[2])
    assert not list(tmp_path.iterdir())


def test_python_api_refuses_a_dry_run(tmp_path):
    with pytest.raises(fcn.errors.UserError, match=r"trainer.dry_run_processes \(=4\) must be null except in"):
        fcn.train(compose("trainer.dry_run_processes=4"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
