"""Measure this framework against plain PyTorch and torchvision, alternately on this machine: ratios with quartiles.

    python scripts/benchmark.py
    python scripts/benchmark.py step breakdown --precision fp32 bf16 --json benchmarks.json --plot benchmarks.png
    python scripts/benchmark.py data evaluation --data-root <folder that contains VOCdevkit>

step        training step: d2l's loop, our network in a bare loop, our training with data, metrics and log
overhead    host time of a step outside of the network
breakdown   phases of a step, from data loading to the log
roofline    arithmetic of a step, and its share of the limit of a known GPU
data        images per second and core against torchvision's pipeline; memory of the data
evaluation  whole images per second in fp32 and bf16, against a loop over single images
prediction  predicted images per second, with masks and overlays, against their evaluation
upsampling  transposed convolution against a convolution and a pixel shuffle
start       --help, --cfg job, and a training of one step
ddp         one process against two on a CPU, or against all GPUs

Without names, all benchmarks run. No other programs should run on the machine at the same time. If this is not
possible, OMP_NUM_THREADS=1 reduces the disturbance on a CPU, because threads that wait for each other amplify delays.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn.cli.argparse_entry import Parser, exceptions_as_error_lines, use_no_cursor_in_notebooks

if TYPE_CHECKING:  # imports that --help does not need
    from benchmarks.results import Breakdown, Result
    from benchmarks.settings import Settings

MODULES = {
    "step": "step",
    "overhead": "step",
    "breakdown": "breakdown",
    "roofline": "roofline",
    "data": "data_pipeline",
    "evaluation": "evaluation",
    "prediction": "evaluation",
    "upsampling": "upsampling",
    "start": "startup",
    "ddp": "ddp",
}
"""Module of the function `measure_<name>` by the name of the benchmark."""

NAMES = tuple(MODULES)


def benchmark_parser() -> argparse.ArgumentParser:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    options = Parser(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = options.add_argument
    add("what", nargs="*", metavar="NAME", help=f"benchmarks: {', '.join(NAMES)}; default: all")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    add("--rounds", type=int, metavar="N", help="measured rounds; default: 5, on a GPU 9")
    add("--steps", type=int, metavar="N", help="steps per round; default: 3, on a GPU 50")
    add("--batch-size", type=int, metavar="N", help="images per step; default: 8, on a GPU 32")
    add("--size", type=int, nargs=2, default=(320, 480), metavar=("H", "W"), help="crop size; default: 320 480")
    precisions = ("auto", "fp32", "bf16")
    help_ = "precisions of the network, measured one after the other; default: auto"
    add("--precision", nargs="+", choices=precisions, default=["auto"], help=help_)
    add("--compile", action="store_true", help="also measure every precision compiled")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for our runs, as for train.py")
    add("--data-root", type=Path, metavar="DIR", help="folder that contains VOCdevkit; default: drawn images")
    add("--json", type=Path, metavar="FILE", help="write all values, with machine, commit and command")
    add("--markdown", type=Path, metavar="FILE", help="write the tables as markdown")
    add("--plot", type=Path, metavar="FILE", help="write a PNG of the speed-ups and the phases of a step")
    add("--quick", action="store_true", help="only check that the benchmarks run: one tiny, meaningless round")
    return options


def main() -> None:
    use_no_cursor_in_notebooks()
    with exceptions_as_error_lines():
        run_benchmarks(benchmark_parser().parse_args())


def run_benchmarks(arguments: argparse.Namespace) -> None:
    """Measure, print the tables and write the requested files.

    Raises:
        BenchmarkError: if an option is invalid, or a benchmark cannot run on this machine.
    """
    # Imported here for a fast --help.
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import Progress

    from benchmarks.report import markdown_tables
    from benchmarks.results import BenchmarkError, Breakdown, Result
    from fcn.config import nearest

    names, load = arguments.what or NAMES, os.getloadavg()[0]
    for name in names:
        if name not in NAMES:
            raise BenchmarkError(f"unknown benchmark {name}{nearest(name, list(NAMES))}; known: {', '.join(NAMES)}")
    findings: list[Any] = []
    with (
        tempfile.TemporaryDirectory(prefix="fcn-benchmark-") as folder,
        Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        bar = progress.add_task("", total=len(names))
        settings = build_settings(arguments, Path(folder), log=lambda line: progress.update(bar, description=line))
        for name in names:
            settings.log(name)
            module = importlib.import_module(f"benchmarks.{MODULES[name]}")
            for logger in ("pytorch_lightning", "lightning_fabric"):  # their import sets the level INFO
                logging.getLogger(logger).setLevel(logging.ERROR)
            findings += getattr(module, f"measure_{name}")(settings)
            progress.advance(bar)
    results = [one for one in findings if isinstance(one, Result)]
    breakdowns = [one for one in findings if isinstance(one, Breakdown)]
    tables = markdown_tables(results, breakdowns)
    Console().print(Markdown(tables)) if sys.stdout.isatty() else print(tables)
    _write_files(arguments, results, breakdowns, load=load)


def build_settings(arguments: argparse.Namespace, folder: Path, *, log: Callable[[str], object]) -> Settings:
    """Combine the options with the defaults of the device.

    Raises:
        BenchmarkError: if a number is below 1, the size is not divisible by 32, or the requested GPU does not exist.
    """
    import torch

    from benchmarks.results import BenchmarkError
    from benchmarks.settings import Settings, Variant

    on_gpu = torch.cuda.is_available() if arguments.device == "auto" else arguments.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise BenchmarkError("--device (=cuda) needs a GPU, and torch sees none; use --device cpu")
    quick = arguments.quick
    defaults = (1, 1, 2) if quick else (9, 50, 32) if on_gpu else (5, 3, 8)
    numbers = {}
    for name, default in zip(("rounds", "steps", "batch_size"), defaults, strict=True):
        given = getattr(arguments, name)
        numbers[name] = default if given is None else given
    height, width = (64, 64) if quick else arguments.size
    for name, value in {**numbers, "size": min(height, width)}.items():
        if value < 1:
            raise BenchmarkError(f"--{name.replace('_', '-')} (={value}) must be at least 1; omit it for the default")
    if height % 32 or width % 32:  # the output of d2l's network is a multiple of its stride
        raise BenchmarkError(f"--size (={height} {width}) must be multiples of 32; use --size 320 480")
    compiled = (False, True) if arguments.compile else (False,)
    return Settings(
        **numbers,
        on_gpu=on_gpu,
        size=(height, width),
        variants=[Variant(precision, compile) for precision in arguments.precision for compile in compiled],
        folder=folder,
        overrides=arguments.set,
        data_root=arguments.data_root and arguments.data_root.absolute(),
        quick=quick,
        log=log,
    )


def _write_files(
    arguments: argparse.Namespace, results: list[Result], breakdowns: list[Breakdown], *, load: float
) -> None:
    from benchmarks.report import markdown_header, markdown_tables
    from fcn.runs import provenance
    from fcn.runs.atomic_files import write_text

    software = provenance.software()
    record: dict[str, Any] = {
        "machine": {**provenance.hardware(), "load_before": load},
        "commit": software["git_commit"],
        "dirty": software["git_dirty"],
        "command": shlex.join(["python", *sys.argv]),
        "versions": software["versions"],
    }
    values = {"results": [one.to_json() for one in results], "breakdown": [asdict(one) for one in breakdowns]}
    page = f"{markdown_header(record)}\n{markdown_tables(results, breakdowns)}"
    for path, text in ((arguments.json, json.dumps({**record, **values}, indent=2) + "\n"), (arguments.markdown, page)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
            print(path)
    if arguments.plot:
        from benchmarks.plot import draw_benchmarks
        from fcn.visualization.png_files import save_png

        save_png(draw_benchmarks(results, breakdowns), arguments.plot)
        print(arguments.plot)
