"""What the system and libraries raise, as a person reads it."""

import errno
import os
import signal

import numpy as np
import pytest
import torch

from fcn import errors
from fcn.config import Config, flatten, to_container

VALUES = flatten(to_container(Config()))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "some/file: No space left on device; make room there"),
        (errno.EROFS, "some/file: Read-only file system; have it made writable"),
        (errno.EACCES, "some/file: Permission denied; "),
        (errno.ENOTDIR, "some/file: Not a directory; a folder of its path is a file"),
        (errno.EISDIR, "some/file: Is a directory; a folder has the name of this file; move that away"),
        (errno.ENAMETOOLONG, "some/file: File name too long; use a shorter name"),
        (errno.ELOOP, "some/file: Too many levels of symbolic links; a link of its path leads to itself"),
        (errno.EIO, "some/file: Input/output error; see what the system's log says"),
    ],
)
def test_storage_is_named_with_a_remedy(number, said):
    assert errors.meaning(OSError(number, os.strerror(number), "some/file"), VALUES).startswith(said)


def test_an_error_that_torch_makes_of_the_systems_is_the_systems():
    """torch.save on a full disk, really: a complaint of its own about positions comes after it."""

    def save() -> None:
        with open("/dev/full", "wb") as file:
            torch.save({"weights": torch.zeros(10**5)}, file)

    with pytest.raises((RuntimeError, OSError)) as caught:
        save()
    assert errors.meaning(caught.value, VALUES) == "No space left on device; make room there, or write to another disk"


def test_any_error_of_a_file_names_it():
    said = errors.meaning(FileNotFoundError(errno.ENOENT, "No such file", "x"), VALUES)
    assert said == "x: No such file or directory; see whether the path is right"


def test_what_is_none_of_these_is_left_alone():
    assert errors.meaning(ValueError("out of memory of what was typed"), VALUES) is None
    another = ValueError("of another thing")
    another.__context__ = OSError(errno.ENOSPC, "full", "x")
    assert errors.meaning(another, VALUES) is None


def memory_of_the_processor():
    torch.empty(2**60, dtype=torch.uint8)


def memory_of_numpy():
    np.empty(2**60, np.uint8)


def memory_of_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of ...")


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (memory_of_the_processor, "memory is not enough for another 1073741824.00 GiB: "),
        (memory_of_numpy, "memory is not enough for another 1.00 EiB: "),
        (memory_of_a_gpu, "the GPU's memory is not enough for another 2.50 GiB: "),
    ],
)
def test_memory_that_is_short_names_what_to_lower(fill, said):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        fill()
    line = errors.meaning(caught.value, VALUES)
    assert line.startswith(said)
    for key in ("trainer.accumulate (=1)", "batch_size (=16)", f"data.crop_size (={VALUES['data.crop_size']})"):
        assert key in line
    assert ("trainer.val_batch_size (=null)" in line) is ("GPU" in said)  # null is 8 there, and 1 on the CPU
    assert errors.meaning(caught.value, {"inference": "whole", "tile_size": [320, 480]}).endswith("use inference=tiled")
    assert errors.meaning(caught.value, {"inference": "tiled", "tile_size": [320, 480]}).endswith(
        "lower tile_size (=[320, 480])"
    )
    assert "end what else is running" in errors.meaning(caught.value, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Killed.",
            "a data loader process (7) was killed (SIGKILL), as Linux does when memory is short",
        ),
        (
            "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
            "a data loader process (7, 8) was killed (SIGKILL), as Linux does when memory is short",
        ),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory.",
            "a data loader process (7) ended by SIGBUS, as when /dev/shm is full",
        ),
        (
            "unable to write to file </torch_1_2_3>: No space left on device (28)",
            "a data loader process ended by SIGBUS",
        ),
        ("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:1", "another rank of this run has gone"),
        ("Timed out waiting 1800000ms for recv operation to complete", "another rank of this run has not answered"),
    ],
)
def test_other_processes_are_told_of(text, said):
    assert errors.meaning(RuntimeError(text), VALUES | {"data.num_workers": 2}).startswith(said)


def test_a_signal_says_why_it_may_have_come():
    more = {**VALUES, "data.num_workers": 2, "trainer.precision": "fp32"}
    lower = "lower data.num_workers (=2), raise trainer.accumulate (=1), use bf16 for trainer.precision (=fp32)"
    assert lower in errors.killed(signal.SIGKILL, more)
    assert "docker run --shm-size" in errors.killed(signal.SIGBUS, VALUES)
    assert errors.killed(signal.SIGSEGV, VALUES).startswith("ended by SIGSEGV, ")


def test_a_chain_of_exceptions_may_be_a_circle():
    """OmegaConf raises its errors again with a cause that came from them."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert errors.meaning(first, {}) is None
