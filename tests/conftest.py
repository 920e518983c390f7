"""Fixtures for all tests: datasets, and commands in separate folders."""

import gc
import os

# Set before torch is imported: two test processes run at once, and more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from hypothesis import settings
from PIL import Image

from tests.commands import SHARED, Command

settings.register_profile("fcn", deadline=None)  # the first call of a torch function may take a second
settings.load_profile("fcn")


def pytest_collection_finish() -> None:
    """Exclude libraries and collected tests from garbage collection, which then takes a fraction of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory) -> Path:
    """Folder of the built-in synthetic dataset, drawn once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "data"


@pytest.fixture
def command(tmp_path, shapes_root) -> Command:
    """Commands in a new folder."""
    return Command(tmp_path, shapes_root)


@pytest.fixture
def fresh_command(tmp_path, shapes_root) -> Command:
    """Like `command`, in a new interpreter that imports all libraries."""
    return Command(tmp_path, shapes_root, fresh=True)


@pytest.fixture(scope="module")
def module_command(tmp_path_factory, shapes_root) -> Command:
    """Like `command`, with a folder shared by the tests of a module."""
    return Command(tmp_path_factory.mktemp("commands"), shapes_root)


@pytest.fixture
def without_pictures(monkeypatch) -> None:
    """Draw no pictures in runs in this process: drawing takes a third of the time of a tiny run."""
    monkeypatch.setattr("fcn.training.recording.draw_epoch_pictures", lambda task, data: {})
    monkeypatch.setattr("fcn.training.recording.draw_learning_curves", lambda rows: Image.new("RGB", (1, 1)))


@pytest.fixture
def lite0_weights() -> Path:
    """State dict of timm's tf_efficientnet_lite0 with genuine ImageNet weights next to the checkout."""
    path = SHARED / "weights" / "tf_efficientnet_lite0-imagenet.pth"
    if not path.is_file():
        pytest.skip("needs the genuine weights next to the checkout")
    return path


@pytest.fixture
def voc_sample() -> Path:
    """Root of the 240 genuine VOC images next to the checkout."""
    root = SHARED / "voc-sample"
    if not root.is_dir():
        pytest.skip("needs the genuine VOC sample next to the checkout")
    return root
