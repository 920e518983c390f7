"""Provenance of a run: commit and changes of the code, versions of packages, machine.

Only `hardware` imports torch.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from fcn.runs.atomic_files import replacing
from fcn.runs.summary import Execution

# Pillow decodes the images, and its versions do not all return the same pixels.
PACKAGES = (
    "torch", "torchvision", "timm", "pytorch-lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy", "pillow",
)  # fmt: skip

CHECKOUT = Path(__file__).resolve().parents[2]
OWN = ("train.py", "fcn", "conf", "scripts", "hydra_plugins")
"""Files and folders of a checkout in which untracked files belong to the code."""


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
    """Return the state of the code in `checkout`.

    A repository that contains but does not track this package, such as one with a virtual environment, is ignored.
    """
    try:
        _git(checkout, "ls-files", "--error-unmatch", "fcn")
        commit = _git(checkout, "rev-parse", "HEAD").decode().strip()
        return Code(commit, _read_diff(checkout))
    except (OSError, subprocess.CalledProcessError):
        return Code(None, b"")


# Independent of the user's settings of git: equal changes give equal bytes, which `git apply` accepts.
_DIFF = (
    "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--full-index", "--binary", "--unified=3",
    "--diff-algorithm=myers", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip
_GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""Set by git hooks, for their own repository."""
DIFF_LIMIT = 2**20
"""Bytes of a diff that a run directory keeps; its hash covers the whole diff."""


def _read_diff(checkout: Path) -> bytes:
    # --relative: only this folder, if the checkout is part of a larger repository.
    tracked = _git(checkout, *_DIFF, "--relative", "HEAD")
    listed = _git(checkout, "ls-files", "--others", "--exclude-standard", "-z", "--", *OWN)
    names = sorted(os.fsdecode(listed).split("\0")[:-1])
    return tracked + b"".join(_git(checkout, *_DIFF, "--no-index", "--", os.devnull, name, allowed=1) for name in names)


def _git(folder: Path, *arguments: str, allowed: int = 0) -> bytes:
    """Return the output of a git command, which may end with status 0 or `allowed`."""
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_VARIABLES}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True)
    if done.returncode not in (0, allowed):
        raise subprocess.CalledProcessError(done.returncode, done.args)
    return done.stdout


def save_diff(run_dir: Path, code: Code | None = None) -> Path | None:
    """Write the diff of the code to code.diff, or to code_2.diff, ... if a run is resumed with other changes.

    Args:
        run_dir: an existing run directory.
        code: state of the code; default: the code of this process.

    Returns:
        The file; None if the diff is empty.
    """
    diff = (code or read_code()).diff
    if not diff:
        return None
    if len(diff) > DIFF_LIMIT:
        diff = diff[:DIFF_LIMIT] + f"\n[truncated: {DIFF_LIMIT} of {len(diff)} bytes]\n".encode()
    names = (run_dir / ("code.diff" if number == 1 else f"code_{number}.diff") for number in count(1))
    path = next(path for path in names if not path.exists() or path.read_bytes() == diff)
    with replacing(path) as temporary:
        temporary.write_bytes(diff)
    return path


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
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        machine["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        machine["cuda"] = torch.version.cuda
        machine["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return machine


def processor() -> str:
    """Return the model of the processor, or its architecture if the system does not report the model."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
