"""Measures this framework against plain PyTorch and torchvision, in turns on this machine: ratios with their spread.

    python scripts/benchmark.py
    python scripts/benchmark.py step breakdown --precision fp32 bf16 --json benchmarks.json --plot benchmarks.png
    python scripts/benchmark.py data evaluation --data-root <folder that holds VOCdevkit>

step        the chapter's loop, our network in a bare loop, our training with data, metrics and log
overhead    what the host does in a step beside the model
breakdown   the parts of a step, from the wait for data to the log
roofline    arithmetic of a step, and the share of what a known GPU could do
data        images per second and core against torchvision's pipeline; memory of the data
evaluation  whole images per second against a loop that takes one at a time
upsampling  the transposed convolution against a convolution and a pixel shuffle
start       --help, --cfg job, and the first step of a training
ddp         one process against two on the CPU, or against all GPUs

Without names: all of them. Nothing else should run on the machine meanwhile. Where that cannot be, OMP_NUM_THREADS=1
disturbs least on a CPU: threads that wait for one another multiply what others take.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fcn.cli.argument_parser import Parser, run_script

NAMES = ("step", "overhead", "breakdown", "roofline", "data", "evaluation", "upsampling", "start", "ddp")


def benchmark_parser() -> argparse.ArgumentParser:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    found = Parser(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("what", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    add("--rounds", type=int, metavar="N", help="turns that count; default: 5, on a GPU 9")
    add("--steps", type=int, metavar="N", help="steps of a turn; default: 3, on a GPU 50")
    add("--batch-size", type=int, metavar="N", help="images of a step; default: 8, on a GPU 32")
    add("--size", type=int, nargs=2, default=(320, 480), metavar=("H", "W"), help="of the crop; default: 320 480")
    add(
        "--precision",
        nargs="+",
        choices=("auto", "fp32", "bf16"),
        default=["auto"],
        help="of the network, one after the other; default: auto",
    )
    add("--compile", action="store_true", help="measure every precision compiled as well")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="more keys for our runs, as train.py takes them")
    add("--data-root", type=Path, metavar="DIR", help="folder that holds VOCdevkit; default: images drawn for it")
    add("--json", type=Path, metavar="FILE", help="everything that was measured, with machine, commit and command")
    add("--markdown", type=Path, metavar="FILE", help="the tables for a page")
    add("--plot", type=Path, metavar="FILE", help="speed-ups and parts of a step, PNG")
    add("--quick", action="store_true", help="one tiny turn of each, to see that they run; its figures mean nothing")
    return found


def main() -> None:
    run_script(run, benchmark_parser().parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the tables, write the files that were asked for.

    Raises:
        BenchmarkError: if a name or a number is wrong, or something cannot be measured here.
    """
    # After the arguments are read: these bring torch.
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.everything import measure
    from benchmarks.report import renderable

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # Windows has none
    with (
        tempfile.TemporaryDirectory(prefix="fcn-benchmark-") as folder,
        Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        bar = progress.add_task("", total=len(arguments.what or NAMES))
        settings = settings_of(arguments, Path(folder), tell=lambda line: progress.update(bar, description=line))
        findings = measure(arguments.what, settings, advance=lambda: progress.advance(bar))
    Console().print(renderable(findings))
    _write(arguments, findings, load=load)


def settings_of(arguments: argparse.Namespace, folder: Path, *, tell: Callable[[str], object]) -> Any:
    """What was typed, with the defaults of the device.

    Raises:
        BenchmarkError: if a number is below 1, the size no multiple of 32, or a GPU is asked for where torch sees none.
    """
    import torch

    from benchmarks.results import BenchmarkError
    from benchmarks.settings import Settings, Variant

    on_gpu = torch.cuda.is_available() if arguments.device == "auto" else arguments.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise BenchmarkError("--device (=cuda) needs a GPU, and torch sees none; use --device cpu")
    quick = arguments.quick
    rounds, steps, batch_size = (1, 1, 2) if quick else (9, 50, 32) if on_gpu else (5, 3, 8)
    numbers = {
        "rounds": rounds if arguments.rounds is None else arguments.rounds,
        "steps": steps if arguments.steps is None else arguments.steps,
        "batch_size": batch_size if arguments.batch_size is None else arguments.batch_size,
    }
    height, width = (64, 64) if quick else arguments.size
    for name, value in {**numbers, "size": min(height, width)}.items():
        if value < 1:
            raise BenchmarkError(
                f"--{name.replace('_', '-')} (={value}) must be at least 1; leave it out for a default"
            )
    if height % 32 or width % 32:  # the chapter's network gives what its stride gives, and cuts nothing
        raise BenchmarkError(f"--size (={height} {width}) must be multiples of 32; use --size 320 480")
    compiled = (False, True) if arguments.compile else (False,)
    variants = [Variant(precision, compile) for precision in arguments.precision for compile in compiled]
    return Settings(
        **numbers,
        on_gpu=on_gpu,
        size=(height, width),
        variants=variants,
        folder=folder,
        overrides=arguments.set,
        data_root=arguments.data_root and arguments.data_root.absolute(),
        quick=quick,
        tell=tell,
    )


def _write(arguments: argparse.Namespace, findings: Any, *, load: float | None) -> None:
    from benchmarks.report import markdown
    from fcn import runs
    from fcn.runs import provenance

    software = provenance.software()
    recorded = {
        "machine": {**provenance.hardware(), "load_before": load},
        "commit": software["git_commit"],
        "dirty": software["git_dirty"],
        "command": shlex.join(["python", *sys.argv]),
        "versions": software["versions"],
    }
    texts = [
        (arguments.json, json.dumps({**recorded, **findings.to_json()}, indent=2) + "\n"),
        (arguments.markdown, markdown(findings, recorded)),
    ]
    for path, text in texts:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            runs.write_text(path, text)
            print(path)
    if arguments.plot:
        from benchmarks.figure import benchmark_figure
        from fcn.visualization.png_files import save_png

        save_png(benchmark_figure(findings), arguments.plot)
        print(arguments.plot)
