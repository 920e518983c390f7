"""Explanation of exceptions: invalid input, failures of the system and of libraries, and bugs."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from fcn import errors
from fcn.config import Config, ConfigError, flatten, to_container
from fcn.data.shapes import ensure_shapes
from fcn.evaluation.boundary_metrics import boundary_bands

VALUES = flatten(to_container(Config()))


@pytest.mark.parametrize("kind", [ConfigError, errors.DataError, errors.RunFailure])
def test_ipython_displays_the_message_without_a_traceback(kind, monkeypatch):
    """IPython displays the lines that `_render_traceback_` returns."""
    with pytest.raises(kind) as raised:
        raise kind("lr (=-1) must be at least 0")
    assert raised.value._render_traceback_() == [f"{kind.__name__}: lr (=-1) must be at least 0"]
    monkeypatch.setattr(errors, "WANTS_TRACEBACK", True)
    assert "Traceback" in raised.value._render_traceback_()[0]


@pytest.mark.parametrize(("number", "remedy"), [*errors.STORAGE_REMEDIES.items(), (errno.ENOENT, "check the path")])
def test_storage_error_names_file_and_remedy(number, remedy):
    line = errors.describe_failure(OSError(number, os.strerror(number), "some/file"), VALUES)
    assert line == f"some/file: {os.strerror(number)}; {remedy}"


def test_storage_error_behind_an_error_of_torch_is_the_explanation():
    """torch.save on a full disk raises an error about positions in the file after the system's error."""

    def save() -> None:
        with open("/dev/full", "wb") as file:
            torch.save({"weights": torch.zeros(10**5)}, file)

    with pytest.raises((RuntimeError, OSError)) as caught:
        save()
    assert errors.describe_failure(caught.value, VALUES).startswith("No space left on device; free space")


def test_other_exceptions_are_no_failures_of_the_system():
    assert errors.describe_failure(ValueError("out of memory"), VALUES) is None
    error = ValueError("unrelated")
    error.__context__ = OSError(errno.ENOSPC, "full", "x")
    assert errors.describe_failure(error, VALUES) is None


def allocate_on_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of ...")


@pytest.mark.parametrize(
    ("allocate", "message"),
    [
        (lambda: torch.empty(2**60, dtype=torch.uint8), "out of memory (tried to allocate 1073741824.00 GiB): "),
        (lambda: np.empty(2**60, np.uint8), "out of memory (tried to allocate 1.00 EiB): "),
        (allocate_on_gpu, "out of GPU memory (tried to allocate 2.50 GiB): "),
    ],
)
def test_out_of_memory_names_the_keys_to_change(allocate, message):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    line = errors.describe_failure(caught.value, VALUES)
    assert line.startswith(message)
    for key in ("trainer.accumulate (=1)", "batch_size (=16)", f"data.crop_size (={VALUES['data.crop_size']})"):
        assert key in line
    # On a CPU, oneDNN does not recover.
    assert f"{'use auto for' if 'GPU' in message else 'raise'} trainer.accumulate (=1)" in line
    assert ("trainer.val_batch_size (=null)" in line) is ("GPU" in message)  # null is 8 on a GPU, and 1 on the CPU
    tiled = {"inference": "tiled", "tile_size": [320, 480]}
    assert errors.describe_failure(caught.value, tiled).endswith("lower tile_size (=[320, 480])")
    assert errors.describe_failure(caught.value, {**tiled, "inference": "whole"}).endswith("use inference=tiled")
    assert "stop other programs" in errors.describe_failure(caught.value, {})


def test_failure_of_onednn_is_one_of_the_memory():
    """Under a limit of the memory, a convolution on a CPU fails with this message."""
    line = errors.describe_failure(RuntimeError("could not create a primitive"), VALUES)
    assert line.startswith("out of memory: raise trainer.accumulate (=1), ")
    other = RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive")
    assert errors.describe_failure(other, VALUES) is None


def test_smaller_parts_are_no_remedy_if_none_fits():
    values = {**VALUES, "trainer.accumulate": "auto"}
    error = torch.OutOfMemoryError("CUDA out of memory.")
    line = errors.describe_failure(error, values)
    first, size = (
        "lower trainer.val_batch_size (=null)",
        f"in a new run lower data.crop_size (={VALUES['data.crop_size']})",
    )
    assert line == f"out of GPU memory: {first}, use trainer.activation_checkpointing=true, {size}"
    saved = errors.describe_failure(error, {**values, "trainer.activation_checkpointing": True})
    assert saved == f"out of GPU memory: {first}, {size}"
    on_cpu = errors.describe_failure(MemoryError(), values)
    assert on_cpu.startswith("out of memory: use a number for trainer.accumulate (=auto), ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "a data loader process (7) was killed (SIGKILL)"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "a data loader process (7, 8) was killed (SIGKILL)"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory.",
            "a data loader process (7) was killed by SIGBUS",
        ),
        (
            "unable to write to file </torch_1_2_3>: No space left on device (28)",
            "a data loader process was killed by SIGBUS",
        ),
        ("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:1", "lost connection to another rank"),
        ("Timed out waiting 1800000ms for recv operation to complete", "another rank did not respond in time"),
    ],
)
def test_failure_of_another_process(text, message):
    line = errors.describe_failure(RuntimeError(text), VALUES | {"data.num_workers": 2})
    assert line.startswith(message)
    # A rank that lost the connection is recognised by this line, which its launcher reads.
    assert bool(errors.LOST_CONNECTION.search(line)) is ("lost connection" in message)


def test_signal_is_explained_with_a_remedy():
    values = {**VALUES, "data.num_workers": 2, "trainer.precision": "fp32"}
    remedies = "lower data.num_workers (=2), raise trainer.accumulate (=1), use bf16 for trainer.precision (=fp32)"
    assert remedies in errors.describe_signal(signal.SIGKILL, values)
    automatic = errors.describe_signal(signal.SIGKILL, {**values, "trainer.accumulate": "auto"})
    assert "use a number for trainer.accumulate (=auto)" in automatic
    assert "docker run --shm-size" in errors.describe_signal(signal.SIGBUS, VALUES)
    assert errors.describe_signal(signal.SIGSEGV, VALUES).startswith("was killed by SIGSEGV, ")


def test_circular_chain_of_exceptions_ends():
    """OmegaConf raises errors that are the cause of their own cause."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert errors.describe_failure(first, {}) is None


def raised(function, *arguments, **options) -> Exception:
    """Return the exception that a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (any)
        function(*arguments, **options)
    return caught.value


def test_invalid_input_is_explained_by_its_message_alone():
    assert errors.explain(ConfigError("lr (=-1) must be at least 0\nmore")) == "lr (=-1) must be at least 0"


def test_bug_in_the_package_is_explained_with_type_and_place(tmp_path):
    """For an exception of a library, the place is the line of the package that called it."""
    own = errors.explain(raised(boundary_bands, torch.zeros(2, 2), [2, 1]))
    assert own.startswith("ValueError: widths (=[2, 1]) must")
    assert " (fcn/evaluation/boundary_metrics.py:" in own
    assert own.endswith("; this is a bug: for the traceback, run again with HYDRA_FULL_ERROR=1")
    library = errors.explain(raised(ensure_shapes, 3, num_train=1, num_val=5, seed=0), log=tmp_path / "train.log")
    assert library.startswith("TypeError: ")
    assert " (fcn/data/" in library
    assert f"see the traceback in {tmp_path}/train.log, or run again with HYDRA_FULL_ERROR=1" in library


def test_bug_elsewhere_is_explained_with_the_raising_line():
    line = errors.explain(raised(np.zeros(3).reshape, 2, 2))
    assert line.startswith(f"ValueError: cannot reshape array of size 3 into shape (2,2) ({__file__}:")


@pytest.mark.parametrize(("kind", "message"), [(ValueError, "ValueError: 'x'"), (ConfigError, "'x'")])
def test_exception_of_a_loader_process_is_explained_by_its_original_message(kind, message):
    class Failing(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise kind("'x'")

    loader = torch.utils.data.DataLoader(Failing(), num_workers=1)
    line = errors.explain(raised(next, iter(loader)))
    assert line.startswith(message)
    assert ("this is a bug" in line) is (kind is ValueError)


def test_explanations_import_neither_torch_nor_hydra():
    code = "import sys, fcn.errors; assert not {'torch', 'hydra', 'omegaconf'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
