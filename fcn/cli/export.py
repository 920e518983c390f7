"""Export the network of a run as one file for other programs, verified against PyTorch.

    python scripts/export.py run=outputs/<name>/<time> format=onnx

The exit status is 0 if the file was written, otherwise 1, and then there is no file.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fcn.cli.hydra_entry import run_command
from fcn.config import ExportConfig
from fcn.runs.run_lookup import find_run

if TYPE_CHECKING:
    from fcn.inference.export import Agreement


def _agreement_table(agreements: list[Agreement]) -> Table:
    table = Table(title="exported network and PyTorch, random images")
    for heading in ("height x width", "images", "largest difference", "pixels of another class"):
        table.add_column(heading, justify="right")
    for agreement in agreements:
        height, width = agreement.size
        difference = f"{agreement.difference:.2g}"
        table.add_row(f"{height} x {width}", str(agreement.batch), difference, str(agreement.other_class))
    return table


def main() -> None:
    def task(config: ExportConfig) -> None:
        from fcn.inference.export import export  # imports torch

        path, agreements = export(config)
        console = Console()
        console.print(_agreement_table(agreements))
        console.print(f"{path.stat().st_size / 1e6:.1f} MB", highlight=False)
        console.print(path, markup=False, highlight=False, soft_wrap=True)

    run_command(task, config_name="export", schema=ExportConfig, run_keys={"run": partial(find_run, "run")})
