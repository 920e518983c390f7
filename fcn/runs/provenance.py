"""What a run was made from: code, versions, machine and data, so that two runs that differ can be told apart.

Imports no torch of its own accord: `hardware` does, when it is called.
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

# Pillow decodes the images, and its releases do not all give the same pixels.
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy", "pillow")

CHECKOUT = Path(__file__).resolve().parents[2]
OWN = ("train.py", "fcn", "conf", "scripts", "hydra_plugins")
"""Files and folders of a checkout in which an untracked file belongs to the code."""

DIFF_LIMIT = 2**20  # bytes of a diff that a run directory keeps


@dataclass(frozen=True)
class Code:
    """State of a checkout.

    Attributes:
        commit: hash of HEAD; None outside a checkout.
        diff: what `git apply` makes of the commit's files those that are there: tracked changes, and untracked files
            of the folders in `OWN`. Empty if there are none, and outside a checkout.
    """

    commit: str | None
    diff: bytes

    @property
    def sha256(self) -> str | None:
        """Hash of the whole diff; None without one."""
        return hashlib.sha256(self.diff).hexdigest() if self.diff else None


# Asked once: what the process imported when it began is what it computes with, whatever is edited later.
@functools.cache
def read_code(checkout: Path = CHECKOUT) -> Code:
    """State of the code in `checkout`; only reads, the index too stays as it is.

    A repository in whose folders this package is merely installed does not count: it does not track its files.
    """
    try:
        _git(checkout, "ls-files", "--error-unmatch", "fcn")
        commit = _git(checkout, "rev-parse", "HEAD").decode().strip()
        return Code(commit, _tracked_changes(checkout) + _untracked_files(checkout))
    except (OSError, subprocess.CalledProcessError):
        return Code(None, b"")


# Whatever the person's own settings of git are, the same changes give the same bytes.
_DIFF = (
    "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--full-index", "--binary", "--unified=3",
    "--diff-algorithm=myers", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip


def _tracked_changes(checkout: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        # `git diff` brings the times of files in the index up to date; here it does so in a copy.
        index = Path(folder, "index")
        shutil.copyfile(checkout / _git(checkout, "rev-parse", "--git-path", "index").decode().rstrip("\n"), index)
        # --relative: where the checkout is a folder of a larger repository, that folder alone.
        return _git(checkout, *_DIFF, "--relative", "HEAD", index=index)


def _untracked_files(checkout: Path) -> bytes:
    listed = _git(checkout, "ls-files", "--others", "--exclude-standard", "-z", "--", *OWN)
    names = sorted(listed.decode(errors="surrogateescape").split("\0")[:-1])
    return b"".join(_git(checkout, *_DIFF, "--no-index", "--", os.devnull, name, allowed=1) for name in names)


def _git(folder: Path, *arguments: str, index: Path | None = None, allowed: int = 0) -> bytes:
    """Output of a git command.

    Args:
        folder: where it runs.
        arguments: of git.
        index: file to use as the index; by default the repository's.
        allowed: exit status that is no failure, besides 0.

    Raises:
        OSError: if there is no git.
        subprocess.CalledProcessError: if the command fails.
    """
    others = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # set by a hook, for its own repository
    environment = {key: value for key, value in os.environ.items() if key not in others}
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True)
    if done.returncode not in (0, allowed):
        raise subprocess.CalledProcessError(done.returncode, done.args)
    return done.stdout


def save_diff(run_dir: Path, code: Code | None = None) -> Path | None:
    """Keep the diff of the code in a run directory: code.diff, for a run resumed on other changes code_2.diff, ...

    Beyond `DIFF_LIMIT` it is cut, and its last line says so.

    Args:
        run_dir: must exist.
        code: by default this process's own.

    Returns:
        The file; None if there is no diff.
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
    return kept + f"\n[cut: {len(kept)} of {len(code.diff)} bytes, sha256 of all {code.sha256}]\n".encode()


def software() -> Execution:
    """`git_commit` and `git_diff_sha256` (null outside a checkout, or without changes), `git_dirty`, `versions`."""
    code = read_code()
    return {
        "git_commit": code.commit,
        "git_dirty": bool(code.diff),
        "git_diff_sha256": code.sha256,
        "versions": {"python": sys.version.split()[0], **{package: version(package) for package in PACKAGES}},
    }


def provenance() -> Execution:
    """Code, versions and machine of this process."""
    return {**software(), "hardware": hardware()}


def hardware() -> dict[str, Any]:
    """The machine as this process uses it. Has the host's name, and nobody's."""
    import torch  # slow to import

    found: dict[str, Any] = {
        "host": platform.node(),
        "os": platform.platform(),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        found["driver"] = driver_version(" ".join(_lines("/proc/driver/nvidia/version")[:1]))
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return found


def processor() -> str:
    """Model of the processor, or its architecture where the system does not name the model."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    """Memory of the machine; null where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def driver_version(line: str) -> str | None:
    """Version of NVIDIA's kernel driver in the line that the driver says of itself; None if there is none."""
    return next((word for word in line.split() if word[0].isdigit() and "." in word), None)


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
