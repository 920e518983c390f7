"""First lines of a run."""

import os

import pytest

from fcn.config.composition import compose
from fcn.data.module import VOCDataModule
from fcn.training.run_header import header_lines
from fcn.training.task import SegmentationTask
from tests.commands import TINY


@pytest.mark.parametrize("keys", [[], ["data.cache=false"], ["data.cache_dir={file}"]])
def test_masks_that_are_not_counted_are_said_whatever_the_reason(shapes_root, tmp_path, keys):
    (tmp_path / "file").touch()  # a cache cannot be written into it
    keys = [key.format(file=os.fspath(tmp_path / "file")) for key in keys]
    config = compose(*TINY, "trainer=cpu", f"data.root={shapes_root}", *keys)
    data = VOCDataModule(config)
    data.prepare_data()
    data.setup("fit")
    task = SegmentationTask(config)
    task.loss = config.loss.build(lambda: pytest.fail("the default loss needs no pixel counts"))
    lines = header_lines(config, data, task)
    assert any("The masks are not counted without a cache" in line for line in lines) is bool(keys)
