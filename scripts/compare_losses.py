"""Train the same run with a base commit and with the working tree, and compare the losses of its first steps."""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fcn.runs.rerun import differing_tensors

TREE = Path(__file__).resolve().parents[1]
LOSS = "train/loss_step"


@dataclass(frozen=True)
class Trained:
    """Result of the run of one version.

    Attributes:
        losses: loss of every step.
        weights: state dict after the last step.
    """

    losses: Sequence[float]
    weights: Mapping[str, torch.Tensor]


def train(tree: Path, overrides: Sequence[str], *, steps: int, folder: Path) -> Trained:
    """Train with the code in `tree`, in a process whose working directory is that of this process.

    Raises:
        SystemExit: with the last line of its error, if the training fails.
    """
    always = [f"steps={steps}", "trainer.log_every=1", "logger=[csv]", f"hydra.run.dir={folder}"]
    command = [sys.executable, str(tree / "train.py"), *overrides, *always]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise SystemExit(f"error: the run in {tree} failed: {lines[-1].removeprefix('error: ')}")
    with open(folder / "scalars.csv", newline="", encoding="utf-8") as file:
        losses = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == LOSS]
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    return Trained(losses, checkpoint["state_dict"])


def first_differing_digit(value: float, other: float) -> int | None:
    """Return the place of the first differing significant digit of two numbers, from 1; None if they are equal.

    It is 1 if the numbers have other signs or exponents. 17 digits tell all doubles apart.
    """
    if value == other or (value != value and other != other):
        return None
    texts = [f"{each:+.16e}".replace(".", "") for each in (value, other)]
    parts = [text.partition("e") for text in texts]
    if parts[0][2] != parts[1][2]:
        return 1
    digits = itertools.zip_longest(*(mantissa for mantissa, _, _ in parts))
    return max(1, next(place for place, (one, two) in enumerate(digits) if one != two))


def loss_table(base: Trained, now: Trained, *, name: str) -> Table:
    """Return one row per step: both losses, and their first differing digit."""
    table = Table("step", f"loss of {name}", "loss of the working tree", "first differing digit")
    for step, pair in enumerate(zip(base.losses, now.losses, strict=True), start=1):
        table.add_row(str(step), *(f"{value:.17g}" for value in pair), str(first_differing_digit(*pair) or ""))
    return table


def summary(base: Trained, now: Trained) -> tuple[str, bool]:
    """Return one line on the result, and whether losses and weights are equal to the last bit."""
    pairs = enumerate(zip(base.losses, now.losses, strict=True), start=1)
    first = next((step for step, pair in pairs if first_differing_digit(*pair)), None)
    names = differing_tensors(base.weights, now.weights)
    if first is None and not names:
        return f"equal: the losses of {len(base.losses)} steps and {len(base.weights)} tensors, to the last bit", True
    losses = "the losses are equal" if first is None else f"the losses differ from step {first} on"
    tensors = f"differing tensors: {len(names)}, first {names[0]}" if names else "the weights are equal"
    return f"different: {losses}; {tensors}", False


def compare_losses_parser() -> argparse.ArgumentParser:
    """Return the parser of the command; overrides and options may be mixed, see `parse_intermixed_args`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="commit, branch or tag to compare with")
    parser.add_argument("overrides", nargs="*", help="overrides of train.py, for both versions")
    parser.add_argument("--steps", type=int, default=20, help="number of steps (default: %(default)s)")
    return parser


def main() -> None:
    """Run the command; exit with status 1 if the versions differ."""
    arguments = compare_losses_parser().parse_intermixed_args()
    git = ["git", "-C", str(TREE)]
    named = subprocess.run(
        [*git, "rev-parse", "--verify", "--short", f"{arguments.base}^{{commit}}"], capture_output=True, text=True
    )
    if named.returncode:
        raise SystemExit(f"error: base (={arguments.base}) must be a commit of {TREE}; see git log")
    commit = named.stdout.strip()
    folder = Path(tempfile.mkdtemp(prefix="compare_losses_"))
    console = Console()
    try:
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(folder / "base"), commit], check=True)
        results: list[Trained] = []
        for label, tree in ((commit, folder / "base"), ("the working tree", TREE)):
            with console.status(f"training {arguments.steps} steps with {label}"):
                run = folder / f"run{len(results)}"
                results.append(train(tree, arguments.overrides, steps=arguments.steps, folder=run))
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(folder / "base")], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
    console.print(loss_table(*results, name=commit))
    line, is_equal = summary(*results)
    console.print(line, soft_wrap=True)
    raise SystemExit(0 if is_equal else 1)


if __name__ == "__main__":
    main()
