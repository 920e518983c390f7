"""Who holds up a run of several processes; tests/integration/test_faults.py has real ones."""

import sys
import threading

import pytest
from torch.utils.data import DataLoader

from fcn.training.watchdog import WAITING, what_is_done, who_hangs


def at(steps, has_data, doing):
    return {"at": [steps, has_data], "doing": doing}


GRADIENTS = "computing gradients, or waiting for those of others"


@pytest.mark.parametrize(
    ("found", "silent", "who"),
    [
        ([at(4, 1, GRADIENTS), at(4, 0, "loading data")], [], "rank 1 hung at step 5"),
        ([at(4, 0, "writing a checkpoint"), at(4, 0, WAITING)], [], "rank 0 hung at step 5"),
        ([at(4, 0, WAITING), at(4, 0, "validating"), at(4, 0, WAITING)], [], "rank 1 hung at step 5"),
        ([at(4, 1, GRADIENTS), at(4, 0, "a"), at(4, 0, "b")], [], "ranks 1, 2 hung at step 5"),
        ([at(4, 1, GRADIENTS), at(4, 1, GRADIENTS)], [1], "rank 1 hung at step 5"),
        ([at(4, 1, WAITING), at(4, 1, WAITING)], [], "all ranks have waited for each other"),
    ],
)
def test_the_one_that_the_others_wait_for_is_named(found, silent, who):
    line = who_hangs(found, silent, timeout=1800)
    assert line.startswith(who)
    assert "for 30 minutes" in line
    assert "raise trainer.timeout_minutes (=30)" in line
    assert ("is stopped, or its machine does not answer" in line) is bool(silent)


def test_what_a_thread_does_is_read_from_where_it_stands():
    class Images:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return what_is_done(sys._current_frames()[threading.get_ident()])

    (here,) = DataLoader(Images(), batch_size=None)
    assert here.startswith("loading data (test_watchdog.py, line ")
    assert Images()[0].startswith("computing (test_watchdog.py, line ")
