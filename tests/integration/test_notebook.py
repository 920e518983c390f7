"""notebooks/fcn_chapter.ipynb: its committed outputs and its execution; training in the kernel of a notebook."""

import ast
import importlib
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from fcn import runs
from tests.commands import ROOT, TINY_DATA, TINY_RUN
from tests.identical_runs import assert_identical

NOTEBOOK = ROOT / "notebooks" / "fcn_chapter.ipynb"
UPDATE = "UPDATE_NOTEBOOK" in os.environ
SHAPES = """\
image       [1, 3, 320, 480]
backbone    [1, 512, 10, 15]
1x1         [1, {classes}, 10, 15]
transposed  [1, {classes}, 320, 480]
"""
SILENT = {"install", "settings", "show"}  # cells without output
METRICS = ("train/loss", "val/pixel_accuracy", "val/mean_iou")


def code_cells(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """Return the code cells by their id."""
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def printed(cell: NotebookNode) -> str:
    """Return the text that a cell prints to standard output."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def texts(notebook: NotebookNode) -> list[str]:
    """Return all texts in the outputs."""
    outputs = [output for cell in code_cells(notebook).values() for output in cell.outputs]
    return [output.get("text") or output.data.get("text/plain", "") for output in outputs]


def pictures(notebook: NotebookNode) -> list[str]:
    """Return the ids of the cells of all pictures."""
    return [
        name
        for name, cell in code_cells(notebook).items()
        for output in cell.outputs
        if any(kind.startswith("image/") for kind in output.get("data", {}))
    ]


def execute(notebook: NotebookNode, folder: Path, *, allow_errors: bool = False) -> None:
    """Execute a notebook in a folder; a cell that fails raises an error."""
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=3600,
        record_timing=False,
        allow_errors=allow_errors,
        resources=resources,
    )
    # One thread, as the commands that the runs are compared with.
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / ".ipython")}
    client.execute(env={**os.environ, **environment})


@pytest.fixture
def notebook() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def test_notebook_opens_everywhere(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert {key for cell in notebook.cells for key in cell.metadata} == {"tags"}
    assert NOTEBOOK.stat().st_size < 500_000


def test_notebook_holds_the_outputs_of_one_execution(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells.values()] == list(range(1, len(cells) + 1))
    assert {name for name, cell in cells.items() if not cell.outputs} == SILENT
    kinds = {(output.output_type, output.get("name")) for cell in cells.values() for output in cell.outputs}
    assert kinds == {("stream", "stdout"), ("display_data", None), ("execute_result", None)}
    assert len(pictures(notebook)) >= 10
    assert printed(cells["model"]) == SHAPES.format(classes=6)
    assert any(re.search(r"█ step 175/175 in 0:\d\d:\d\d$", text) for text in texts(notebook))


def test_notebook_holds_no_path_of_a_machine(notebook):
    for text in texts(notebook):
        assert not re.search(r"(?<![\w.>:])/[A-Za-z]", text), text


def test_statements_on_the_results_hold_for_the_outputs(notebook):
    """The texts say which initialisation and which inference has the higher score."""
    cells = code_cells(notebook)
    compared = re.findall(r"^(\S+) +bilinear ([\d.]+), Xavier ([\d.]+)$", printed(cells["xavier-curves"]), re.M)
    gains = {name: float(bilinear) - float(xavier) for name, bilinear, xavier in compared}
    assert gains["val/mean_iou"] > abs(gains["val/pixel_accuracy"])
    whole, tiles = map(float, re.findall(r"mean IoU ([\d.]+)", printed(cells["whole-scores"])))
    assert abs(whole - tiles) < 0.005


def test_names_of_the_package_in_the_notebook_exist(notebook):
    sources = [re.sub(r"^( *)%.*$", r"\1pass", cell.source, flags=re.M) for cell in code_cells(notebook).values()]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    imported = {
        (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fcn")
        for alias in node.names
    }
    modules = {"fcn": "fcn", "runs": "fcn.runs"}
    used = {
        (modules[node.value.id], node.attr)
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    assert len(imported) > 12
    assert {("fcn", "compose"), ("fcn", "train"), ("fcn", "load")} <= used
    for module, name in imported | used:
        assert hasattr(importlib.import_module(module), name), (module, name)


def set_overrides(notebook: NotebookNode, *overrides: str) -> None:
    """Change the cell that a user changes."""
    cell = code_cells(notebook)["settings"]
    assert cell.metadata.tags == ["parameters"]
    cell.source = f"OVERRIDES = {list(overrides)}"


def check_scores(notebook: NotebookNode, run: Path, other: Path) -> None:
    """Compare the run of the notebook and the scores that it prints with the same run of the command line."""
    assert_identical(run, other)
    metrics = runs.read_summary(other)["metrics"]
    lines = printed(code_cells(notebook)["curves"]).splitlines()
    assert [line.split() for line in lines] == [[name, str(metrics[name])] for name in METRICS]


@pytest.mark.slow
def test_notebook_with_a_tiny_run(notebook, command):
    folder = command.folder / "notebook"
    folder.mkdir()
    set_overrides(notebook, *TINY_DATA, *TINY_RUN, f"data.root={command.data}")
    execute(notebook, folder)
    assert printed(code_cells(notebook)["model"]) == SHAPES.format(classes=6)
    check_scores(notebook, folder / "outputs" / "bilinear", command.train("backbone=resnet18", name="bilinear"))
    xavier = command.train("backbone=resnet18", "model.init=xavier", name="xavier")
    assert_identical(folder / "outputs" / "xavier", xavier)


@pytest.mark.exhaustive
@pytest.mark.realdata
def test_notebook_on_genuine_voc_images(notebook, voc_sample, tmp_path):
    """The preset that the second cell names, on a few images and without ImageNet weights."""
    assert '"experiment=d2l"' in code_cells(notebook)["settings"].source
    small = (
        "data.limit=8",
        "batch_size=4",
        "epochs=1",
        "backbone.weights=none",
        f"data.cache_dir={tmp_path / 'cache'}",
    )
    tiny = [override for override in TINY_RUN if not override.startswith(("batch_size", "epochs"))]
    set_overrides(notebook, "experiment=d2l", f"data.root={voc_sample}", *tiny, *small)
    execute(notebook, tmp_path)
    cells = code_cells(notebook)
    assert printed(cells["model"]) == SHAPES.format(classes=21)
    assert "8 validation images" in printed(cells["pairs"])
    assert len(pictures(notebook)) >= 10


@pytest.mark.exhaustive
def test_notebook_as_it_is(notebook, command):
    """With UPDATE_NOTEBOOK=1 in the environment, the outputs replace those in the repository."""
    folder = command.folder / "notebook"
    folder.mkdir()
    execute(notebook, folder)
    if UPDATE:
        nbformat.write(without_details(notebook), NOTEBOOK)
    process = command.start("name=chapter")
    _, err = process.communicate(timeout=3600)
    assert process.returncode == 0, err
    check_scores(notebook, folder / "outputs" / "bilinear", command.run_of("chapter"))
    test_statements_on_the_results_hold_for_the_outputs(notebook)


def without_details(notebook: NotebookNode) -> NotebookNode:
    """Join consecutive outputs of a stream, and drop what depends on the version of Python."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in code_cells(notebook).values():
        joined: list[NotebookNode] = []
        for output in cell.outputs:
            if joined and output.output_type == "stream" and output.get("name") == joined[-1].get("name"):
                joined[-1].text += output.text
            else:
                joined.append(output)
        cell.outputs = joined
    return notebook


KERNEL = """
import os, signal, threading
import psutil
import fcn
from fcn import runs
from pathlib import Path

def train(name, *overrides):
    run = Path("outputs", name)
    fcn.train(fcn.compose(*{overrides}, "backbone=squeezenet1_0", *overrides), run)
    return run
---
train("first")
train("second", "data.num_workers=2")
print([child.name() for child in psutil.Process().children()])
---
train("invalid", "batch_size=99")
---
interrupted = Path("outputs", "interrupted")
def interrupt_after_the_first_epoch():
    while not (interrupted / runs.LAST).exists():
        threading.Event().wait(0.02)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt_after_the_first_epoch).start()
train("interrupted", "epochs=30")
---
metrics = fcn.train(runs.load_config(interrupted), interrupted)
---
!{python} {script} {words} epochs=1
"""


@pytest.mark.exhaustive
def test_training_in_the_kernel_of_a_notebook(command, tmp_path):
    overrides = [*TINY_DATA, *TINY_RUN, f"data.root={command.data}", "trainer=cpu"]
    words = " ".join(f"'{override}'" for override in overrides)
    values = {"python": sys.executable, "script": str(ROOT / "train.py"), "words": words, "overrides": repr(overrides)}
    source = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], KERNEL)
    cells = [nbformat.v4.new_code_cell(text.strip("\n")) for text in source.split("---\n")]
    execute(nbformat.v4.new_notebook(cells=cells), tmp_path, allow_errors=True)
    _, twice, invalid, interrupted, resumed, shell = cells

    bars = [output.data["text/plain"] for output in twice.outputs if output.output_type == "display_data"]
    assert len(bars) == 2
    assert all(re.fullmatch(r"█{40} step 4/4 in 0:\d\d:\d\d", bar) for bar in bars), bars
    assert printed(twice).splitlines()[-1] == "[]"  # no process is left
    assert printed(twice).count("val mIoU") == 6
    assert [
        output.output_type for output in twice.outputs if output.output_type not in ("stream", "display_data")
    ] == []
    assert {output.name for output in twice.outputs if output.output_type == "stream"} == {"stdout"}

    (error,) = (output for output in invalid.outputs if output.output_type == "error")
    (line,) = error.traceback
    assert line.startswith("ConfigError: batch_size (=99) must not exceed the 16 images of train")

    assert re.search(r"^interrupted at step \d+; continue with resume=outputs/interrupted$", printed(interrupted), re.M)
    assert "epoch 30/30" in printed(resumed)
    assert_identical(
        tmp_path / "outputs" / "interrupted",
        command.train("backbone=squeezenet1_0", "trainer=cpu", "epochs=30", name="uninterrupted"),
    )

    assert "val mIoU" in printed(shell)
    assert "\x1b" not in printed(shell)  # nothing that moves the cursor
