"""Messages of the watchdog; tests/integration/test_faults.py stalls real ranks."""

import threading
import time
import types

import pytest

from fcn.training.watchdog import (
    LOADING,
    RECORDING,
    SAVING,
    TRAINING,
    VALIDATING,
    WAITING,
    Watchdog,
    describe_activity,
    describe_stalled_ranks,
)  # fmt: skip


def at(steps, has_data, activity):
    return {"position": [steps, has_data], "activity": activity}


@pytest.mark.parametrize(
    ("progress", "silent", "ranks"),
    [
        ([at(4, 1, TRAINING), at(4, 0, LOADING)], [], "rank 1 stalled at step 5"),
        ([at(4, 0, SAVING), at(4, 0, WAITING)], [], "rank 0 stalled at step 5"),
        ([at(4, 0, WAITING), at(4, 0, VALIDATING), at(4, 0, WAITING)], [], "rank 1 stalled at step 5"),
        ([at(4, 1, TRAINING), at(4, 0, LOADING), at(4, 0, RECORDING)], [], "ranks 1, 2 stalled at step 5"),
        ([at(4, 1, TRAINING), at(4, 1, TRAINING)], [1], "rank 1 stalled at step 5"),
        ([at(4, 1, WAITING), at(4, 1, WAITING)], [], "all ranks have waited for each other"),
    ],
)
def test_message_names_the_ranks_for_which_others_wait(progress, silent, ranks):
    line = describe_stalled_ranks(progress, silent, timeout=1800)
    assert line.startswith(ranks)
    assert "for 30 minutes" in line
    assert "raise trainer.timeout_minutes (=30)" in line
    assert ("is stopped or its machine does not respond" in line) is bool(silent)


@pytest.mark.parametrize(
    ("module", "start"), [("torch.distributed.distributed_c10d", WAITING), ("torch.utils.data", f"{LOADING} (")]
)
def test_activity_is_waiting_inside_torch_distributed(module, start):
    activities = []

    def main():
        while not activities:
            sleep(0.01)  # noqa: F821 - a global of the function made below

    code = types.FunctionType(main.__code__, {"__name__": module, "sleep": time.sleep}, closure=main.__closure__)
    thread = threading.Timer(0.2, lambda: activities.append(describe_activity(LOADING)))
    thread.start()
    code()
    assert activities[0].startswith(start)


def test_hooks_set_the_activity(tmp_path):
    class Trainer:
        global_step = 3
        is_last_batch = False

    watchdog, trainer = Watchdog(1.0, tmp_path), Trainer()
    activities = []
    for hook, arguments in (
        ("on_train_batch_start", [trainer]),
        ("on_train_batch_end", [trainer]),
        ("on_validation_start", []),
        ("on_validation_end", []),
        ("on_save_checkpoint", []),
        ("on_train_epoch_end", []),
    ):
        getattr(watchdog, hook)(*arguments)
        activities.append(watchdog.activity)
    assert activities == [TRAINING, LOADING, VALIDATING, RECORDING, SAVING, LOADING]
    assert (watchdog.moves, watchdog.position) == (6, (3, 0))
