"""Layout and precision of `fastest`: measured once, without another effect on the result, and kept afterwards."""

import copy
import gc
import multiprocessing
import os
import signal

import pytest
import torch
import torch.distributed as dist
from torch import nn

import fcn
from fcn import runs
from fcn.comparison.run_records import read_run
from fcn.config.choices import Layout, Precision
from fcn.config.composition import compose
from fcn.errors import is_out_of_memory
from fcn.models.network import SegmentationNetwork
from fcn.runs.rerun import prepare_copy
from fcn.training import fastest_settings
from fcn.training.task import SegmentationTask
from fcn.training.trainer import build_trainer
from tests.commands import TINY
from tests.forked import LIBRARIES
from tests.identical_runs import assert_identical

FASTEST = ("trainer.layout=fastest", "trainer.precision=fastest")
SMALL = ("trainer=cpu", "trainer.sample_images=0", "data.crop_size=[48,48]", "backbone=squeezenet1_0")

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def times(monkeypatch):
    """Function that sets the settings with the shortest measured time."""
    measure = fastest_settings._seconds

    def set_fastest(layout: str, precision: str) -> None:
        def seconds(config, network, crops):
            measured = measure(config, network, crops)  # with all its effects
            settings = config.trainer.layout.value, config.trainer.precision.value
            return measured if settings == (layout, precision) else measured + 100

        monkeypatch.setattr(fastest_settings, "_seconds", seconds)
        monkeypatch.setattr(fastest_settings, "ROUNDS", 1)

    return set_fastest


@pytest.fixture
def train(shapes_root, tmp_path):
    """Train a small run in a folder below the test's; its directory."""

    def run(name: str, *overrides: str):
        fcn.train(compose(*TINY, *SMALL, f"data.root={shapes_root}", *overrides), tmp_path / name)
        return tmp_path / name

    return run


@pytest.mark.parametrize(("layout", "precision"), [("channels_last", "fp32"), ("channels_first", "bf16")])
def test_result_equals_that_of_a_run_with_the_settings(train, times, layout, precision):
    times(layout, precision)
    run = train("fastest", *FASTEST)
    log, summary = (run / runs.LOG).read_text(), runs.read_summary(run)
    assert f"compute  {precision}, {layout.replace('_', ' ')}, " in log
    assert log.count("measured fp32, channels_last ") == 1
    assert (summary["layout"], summary["precision"]) == (layout, precision)
    assert_identical(run, train("named", f"trainer.layout={layout}", f"trainer.precision={precision}"))


def test_measurement_changes_neither_network_nor_random_numbers():
    config = compose(*SMALL, *FASTEST, "model=conv_head", "model.channels=8")  # batch norm and dropout
    task = SegmentationTask(config)
    task.trainer = build_trainer(config, callbacks=[])
    before, random = copy.deepcopy(task.state_dict()), torch.get_rng_state()
    fastest_settings.choose_fastest_settings(task)
    assert task.config.trainer.layout in (Layout.channels_last, Layout.channels_first)
    assert task.config.trainer.precision in (Precision.fp32, Precision.bf16)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in task.parameters())
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_setting_that_does_not_fit_is_not_chosen_and_fewer_crops_are_measured(monkeypatch):
    config = compose(*SMALL, *FASTEST)
    sizes = []

    def seconds(candidate, network, crops):
        sizes.append(len(crops))
        if candidate.trainer.precision is Precision.fp32 or len(crops) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 2.0 if candidate.trainer.layout is Layout.channels_last else 1.0

    monkeypatch.setattr(fastest_settings, "_seconds", seconds)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # 0.3 s beside the objects of all tests
    chosen = fastest_settings.fastest_settings(config, SegmentationNetwork(config), torch.rand(8, 3, 48, 48)).trainer
    assert (chosen.layout, chosen.precision) == (Layout.channels_first, Precision.bf16)
    assert list(dict.fromkeys(sizes)) == [8, 4, 2]


def test_network_that_does_not_fit_is_out_of_memory(monkeypatch):
    def seconds(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(fastest_settings, "_seconds", seconds)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # 0.3 s beside the objects of all tests
    config = compose(*SMALL, *FASTEST)
    with pytest.raises(RuntimeError) as failure:
        fastest_settings.fastest_settings(config, SegmentationNetwork(config), torch.rand(2, 3, 48, 48))
    assert is_out_of_memory(failure.value)


@pytest.mark.parametrize("layout", [Layout.channels_last, Layout.channels_first])
def test_layout_is_that_of_weights_and_feature_maps(layout):
    network = SegmentationNetwork(compose(*SMALL))
    network.configure(compose(*SMALL, f"trainer.layout={layout}"))
    expected = torch.channels_last if layout is Layout.channels_last else torch.contiguous_format
    kernels = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=expected) for kernel in kernels)
    maps = []
    network.model.backbone.register_forward_hook(lambda module, arguments, output: maps.append(arguments[0]))
    network(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert maps[0].is_contiguous(memory_format=expected)


def test_one_setting_can_be_measured_alone(train, times):
    times("channels_first", "auto")
    run = train("layout", "trainer.layout=fastest")
    assert "measured fp32, channels_last " in (run / runs.LOG).read_text()
    assert "bf16" not in (run / runs.LOG).read_text()
    assert_identical(run, train("named", "trainer.layout=channels_first"))


def test_resumed_run_and_its_repetition_keep_the_settings(train, times, tmp_path, monkeypatch):
    def interrupted(task, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return training_step(task, *args)

    training_step = SegmentationTask.training_step
    times("channels_first", "bf16")
    whole = train("whole", *FASTEST)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "training_step", interrupted)
        with pytest.raises(SystemExit):
            train("resumed", *FASTEST)
    times("channels_last", "fp32")
    run = train("resumed", *FASTEST)
    assert_identical(run, whole)
    assert (run / runs.LOG).read_text().count("measured ") == 1
    assert "settings of the checkpoint are kept: bf16, channels_first" in (run / runs.LOG).read_text()
    compared = {path: read_run(path).config for path in (run, whole)}
    assert {config["trainer.precision"] for config in compared.values()} == {"bf16"}
    copied, _ = prepare_copy(compose(f"rerun={whole}"), [])
    fcn.train(copied, tmp_path / "copy")
    assert_identical(tmp_path / "copy", whole)


def choose_as_rank(rank: int, store: str, queue) -> None:
    """Measure as one of two processes: each has another fastest setting, and a third one is fastest in total."""
    times = {
        ("channels_last", "fp32"): (1, 9),
        ("channels_last", "bf16"): (9, 1),
        ("channels_first", "fp32"): (3, 3),
        ("channels_first", "bf16"): (9, 9),
    }
    fastest_settings._seconds = lambda config, *_: times[config.trainer.layout.value, config.trainer.precision.value][
        rank
    ]
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    config = compose(*SMALL, *FASTEST)
    chosen = fastest_settings.fastest_settings(config, SegmentationNetwork(config), torch.rand(2, 3, 48, 48)).trainer
    queue.put((chosen.layout.value, chosen.precision.value))
    dist.destroy_process_group()


def test_processes_choose_the_settings_that_are_fastest_in_total(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    queue = context.Queue()
    ranks = [
        context.Process(target=choose_as_rank, args=(rank, str(tmp_path / "store"), queue), daemon=True)
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    assert [queue.get(timeout=120) for _ in ranks] == [("channels_first", "fp32")] * 2
    for process in ranks:
        process.join()
        assert process.exitcode == 0


def test_untrained_run_is_not_measured(train):
    run = train("untrained", *FASTEST, "epochs=0")
    assert "measured" not in (run / runs.LOG).read_text()
    assert isinstance(fcn.load(run).network.layout, torch.memory_format)
    copied, _ = prepare_copy(compose(f"rerun={run}"), [])
    assert copied.trainer.layout is Layout.fastest
