"""The profiler of operations; tests/integration/test_debug_presets.py runs it in a training."""

import logging
from types import SimpleNamespace

import pytest

from fcn.training.profiling import NUM_STEPS, TRACE, OperationProfiler


@pytest.mark.parametrize("num_steps", [1, NUM_STEPS])
def test_warning_if_too_few_steps_come_before_a_validation(tmp_path, caplog, num_steps):
    recorder = OperationProfiler(tmp_path)
    with caplog.at_level(logging.INFO):
        recorder.on_train_start(SimpleNamespace(is_global_zero=True), None)
        for _ in range(num_steps):
            recorder.on_train_batch_end()
        recorder.on_train_epoch_end()
    assert (f"needs {NUM_STEPS} steps before the first validation" in caplog.text) == (num_steps < NUM_STEPS)
    assert (recorder.folder / TRACE).is_file() == (num_steps == NUM_STEPS)
