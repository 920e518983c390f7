"""GPUs and cores of the jobs of a sweep."""

import os

import pytest

from fcn.config import Config, ConfigError, validate_run
from fcn.execution import device_slots
from fcn.execution.device_slots import build_slots


def config(accelerator: str, devices: int | None = None, batch_size: int = 16) -> Config:
    return validate_run({"batch_size": batch_size, "trainer": {"accelerator": accelerator, "devices": devices}})


@pytest.mark.parametrize(
    ("gpus", "visible", "trainer", "number", "slots"),
    [
        (0, None, ("cpu",), None, [{}]),
        (8, None, ("cpu",), None, [{}]),  # GPUs are not used
        (0, None, ("auto",), None, [{}]),
        (4, None, ("gpu", 1), None, ["0", "1", "2", "3"]),
        (4, None, ("gpu", 2), None, ["0,1", "2,3"]),
        (4, None, ("gpu", 4), None, ["0,1,2,3"]),
        (4, None, ("auto",), None, ["0,1,2,3"]),  # all GPUs: one run at a time
        (4, None, ("auto",), 2, ["0,1", "2,3"]),
        (4, None, ("auto",), 4, ["0", "1", "2", "3"]),
        (2, None, ("gpu", 1), 3, ["0", "1", "0"]),  # more slots than GPUs share them
        (2, "5,7", ("gpu", 1), None, ["5", "7"]),
    ],
)
def test_slots_have_gpus_of_their_own(monkeypatch, gpus, visible, trainer, number, slots):
    monkeypatch.setattr(device_slots, "count_gpus", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    expected = [{"CUDA_VISIBLE_DEVICES": slot} if isinstance(slot, str) else slot for slot in slots]
    assert build_slots([config(*trainer)], number=number) == expected


@pytest.mark.parametrize(
    ("gpus", "trainer", "number", "per_gpu", "slots"),
    [
        (1, ("auto",), None, 3, ["0", "0", "0"]),
        (2, ("gpu", 1), None, 2, ["0", "1", "0", "1"]),  # two jobs get a GPU each
        (4, ("gpu", 2), None, 2, ["0,1", "2,3", "0,1", "2,3"]),
        (3, ("gpu", 2), None, 2, ["0,1", "2,0", "1,2"]),  # every GPU has two jobs
        (2, ("auto",), None, 2, ["0,1", "0,1"]),
        (4, ("auto",), 4, 2, ["0,1", "2,3", "0,1", "2,3"]),
        (4, ("auto",), 2, 4, ["0,1,2,3", "0,1,2,3"]),  # a job has a GPU once
        (4, ("gpu", 1), 3, 2, ["0", "1", "2"]),
        (0, ("auto",), None, 2, [{}]),
        (8, ("cpu",), None, 2, [{}]),
    ],
)
def test_several_slots_per_gpu_fill_the_gpus_evenly(monkeypatch, gpus, trainer, number, per_gpu, slots):
    monkeypatch.setattr(device_slots, "count_gpus", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    expected = [{"CUDA_VISIBLE_DEVICES": slot} if isinstance(slot, str) else slot for slot in slots]
    assert build_slots([config(*trainer)], number=number, per_gpu=per_gpu) == expected


@pytest.mark.parametrize(("devices", "threads"), [(1, "4"), (2, "2")])
def test_slots_on_the_cpu_share_its_cores(monkeypatch, devices, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert build_slots([config("cpu", devices)], number=2) == [{"OMP_NUM_THREADS": threads}] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user's value is not changed
    assert build_slots([config("cpu", devices)], number=2) == [{}, {}]


@pytest.mark.parametrize("number", [0, -1, 1.5, "two", True])
def test_invalid_number_of_slots(number):
    with pytest.raises(ConfigError, match=rf"slots \(={number}\) must be a whole number of at least 1"):
        build_slots([config("cpu")], number=number)
    with pytest.raises(ConfigError, match=rf"slots_per_gpu \(={number}\) must be a whole number of at least 1"):
        build_slots([config("cpu")], per_gpu=number)


def test_runs_that_fit_into_no_slot_are_refused(monkeypatch):
    monkeypatch.setattr(device_slots, "count_gpus", lambda: 2)
    with pytest.raises(ConfigError, match=r"trainer.devices \(=4\) must be at most the GPUs that torch sees \(=2\)"):
        build_slots([config("cpu"), config("gpu", 4)])
    monkeypatch.setattr(device_slots, "count_gpus", lambda: 3)
    with pytest.raises(ConfigError, match=r"batch_size \(=16\) must be divisible by the number of processes \(=3\)"):
        build_slots([config("auto")])
