"""Memory, open files, threads and processes do not grow during a long run or a long sweep.

    pytest -n 0 -s -m exhaustive tests/integration/test_endurance.py

prints the figures of docs/performance.md.
"""

import os
import statistics
import sys
import time
from pathlib import Path

import pytest

from tests.commands import TINY, Command

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
SMALL = ("backbone=squeezenet1_0", "trainer=cpu", "trainer.sample_images=1", "data.crop_size=[32,32]")


def family(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _read(task / "children").split()
    ]
    return [pid, *(other for child in children for other in family(child))]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just ended
        return ""


def measure(pid: int) -> dict[str, float]:
    """Return resident memory in MiB, open files, threads and descendants of a process."""
    status = dict(line.split(":", 1) for line in _read(Path(f"/proc/{pid}/status")).splitlines() if ":" in line)
    return {
        "memory": int(status["VmRSS"].split()[0]) / 1024,
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
        "processes": len(family(pid)) - 1,
    }


def sampled(process, *, every: float) -> list[dict[str, float]]:
    samples = []
    while process.poll() is None:
        try:
            samples.append(measure(process.pid))
        except (OSError, KeyError):
            break
        time.sleep(every)
    return samples


def check_flat(samples: list[dict[str, float]], what: str) -> None:
    """Fail if the medians of the last fifth exceed those of the second fifth."""
    fifth = len(samples) // 5
    early, late = samples[fifth : 2 * fifth], samples[-fifth - 1 : -1]
    for name, allowed in {"memory": 1.05, "files": 1, "threads": 1, "processes": 1}.items():
        before, after = (statistics.median(sample[name] for sample in part) for part in (early, late))
        print(f"{what}: {name} {before:.0f} -> {after:.0f} (most {max(sample[name] for sample in samples):.0f})")
        assert after <= before * allowed, (what, name)


def test_resources_of_a_run_of_many_epochs_do_not_grow(fresh_command: Command):
    process = fresh_command.start(*TINY, *SMALL, f"data.root={fresh_command.data}", "name=long", "epochs=300")
    samples = sampled(process, every=0.5)
    assert process.wait() == 0
    check_flat(samples, "300 epochs")


def test_resources_of_a_sweep_of_fifty_jobs_do_not_grow(fresh_command: Command):
    data = f"data.root={fresh_command.data}"
    process = fresh_command.start("-m", *TINY, *SMALL, data, "name=sweep", "epochs=1", "seed=range(50)")
    samples = sampled(process, every=1)
    assert process.wait() == 0
    check_flat(samples, "50 jobs, the command itself")
    (sweep,) = (fresh_command.folder / "outputs" / "sweep").iterdir()
    assert len(list(sweep.glob("*/summary.json"))) == 50
    assert not list(sweep.rglob("*.tmp"))
