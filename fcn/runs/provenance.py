"""Provenance of a run: commit and changes of the code, versions of packages, machine.

Only `hardware` imports torch.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from fcn.runs.atomic_files import replacing
from fcn.runs.summary import Execution

# Pillow decodes the images, and its versions do not all return the same pixels.
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy", "pillow")

CHECKOUT = Path(__file__).resolve().parents[2]
OWN = ("train.py", "fcn", "conf", "scripts", "hydra_plugins")
"""Files and folders of a checkout in which untracked files belong to the code."""

DIFF_LIMIT = 2**20  # bytes of a diff kept in a run directory


@dataclass(frozen=True)
class Code:
    """State of a checkout.

    Attributes:
        commit: hash of HEAD; None outside a checkout.
        diff: input for `git apply` that turns the files of the commit into the present ones: changes of tracked files,
            and untracked files in `OWN`. Empty without changes, and outside a checkout.
    """

    commit: str | None
    diff: bytes

    @property
    def sha256(self) -> str | None:
        """Hash of the whole diff; None if it is empty."""
        return hashlib.sha256(self.diff).hexdigest() if self.diff else None


# Read once: files edited later do not change what this process has imported.
@functools.cache
def read_code(checkout: Path = CHECKOUT) -> Code:
    """Return the state of the code in `checkout`, without changing anything, such as the index.

    A repository that contains but does not track this package, such as one with a virtual environment, is ignored.
    """
    try:
        _git(checkout, "ls-files", "--error-unmatch", "fcn")
        commit = _git(checkout, "rev-parse", "HEAD").decode().strip()
        return Code(commit, _tracked_changes(checkout) + _untracked_files(checkout))
    except (OSError, subprocess.CalledProcessError):
        return Code(None, b"")


# The same changes give the same bytes, independent of the user's settings of git.
_DIFF = (
    "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--full-index", "--binary", "--unified=3",
    "--diff-algorithm=myers", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip


def _tracked_changes(checkout: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        # `git diff` updates the times of files in the index; here in a copy.
        index = Path(folder, "index")
        shutil.copyfile(checkout / _git(checkout, "rev-parse", "--git-path", "index").decode().rstrip("\n"), index)
        # --relative: only this folder, if the checkout is part of a larger repository.
        return _git(checkout, *_DIFF, "--relative", "HEAD", index=index)


def _untracked_files(checkout: Path) -> bytes:
    listed = _git(checkout, "ls-files", "--others", "--exclude-standard", "-z", "--", *OWN)
    names = sorted(listed.decode(errors="surrogateescape").split("\0")[:-1])
    return b"".join(_git(checkout, *_DIFF, "--no-index", "--", os.devnull, name, allowed=1) for name in names)


def _git(folder: Path, *arguments: str, index: Path | None = None, allowed: int = 0) -> bytes:
    """Return the output of a git command.

    Args:
        folder: in which it runs.
        arguments: of git.
        index: file to use as the index; by default that of the repository.
        allowed: exit status besides 0 that is not an error.

    Raises:
        OSError: if git is not installed.
        subprocess.CalledProcessError: if the command fails.
    """
    others = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # set by hooks of other repositories
    environment = {key: value for key, value in os.environ.items() if key not in others}
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True)
    if done.returncode not in (0, allowed):
        raise subprocess.CalledProcessError(done.returncode, done.args)
    return done.stdout


def save_diff(run_dir: Path, code: Code | None = None) -> Path | None:
    """Write the diff of the code to code.diff, or to code_2.diff, ... if a run is resumed with other changes.

    A diff longer than `DIFF_LIMIT` is truncated, with a last line that reports it.

    Args:
        run_dir: an existing run directory.
        code: by default that of this process.

    Returns:
        The file; None if the diff is empty.
    """
    diff = _shortened(code or read_code())
    if not diff:
        return None
    names = (run_dir / ("code.diff" if number == 1 else f"code_{number}.diff") for number in count(1))
    path = next(path for path in names if not path.exists() or path.read_bytes() == diff)
    with replacing(path) as temporary:
        temporary.write_bytes(diff)
    return path


def _shortened(code: Code) -> bytes:
    if len(code.diff) <= DIFF_LIMIT:
        return code.diff
    kept = code.diff[:DIFF_LIMIT].rpartition(b"\n")[0]
    return kept + f"\n[truncated: {len(kept)} of {len(code.diff)} bytes, sha256 of all {code.sha256}]\n".encode()


def software() -> Execution:
    """Return the fields of `Execution` that describe code and packages."""
    code = read_code()
    return {
        "git_commit": code.commit,
        "git_dirty": bool(code.diff),
        "git_diff_sha256": code.sha256,
        "versions": {"python": sys.version.split()[0], **{package: version(package) for package in PACKAGES}},
    }


def provenance() -> Execution:
    """Return the fields of `Execution` that describe code, packages and machine."""
    return {**software(), "hardware": hardware()}


def hardware() -> dict[str, Any]:
    """Return a description of the machine as seen by this process; it has the name of the host, not of the user."""
    import torch  # slow to import

    machine: dict[str, Any] = {
        "host": platform.node(),
        "os": platform.platform(),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        machine["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        machine["driver"] = driver_version(" ".join(_lines("/proc/driver/nvidia/version")[:1]))
        machine["cuda"] = torch.version.cuda
        machine["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return machine


def processor() -> str:
    """Return the model of the processor, or its architecture if the system does not report the model."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    """Return the memory of the machine in GiB; None if the system does not report it."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def driver_version(line: str) -> str | None:
    """Return the version of NVIDIA's kernel driver, given its line in /proc; None if the line is empty."""
    return next((word for word in line.split() if word[0].isdigit() and "." in word), None)


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
