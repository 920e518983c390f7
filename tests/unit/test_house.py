"""The structure of the package: imports go one way, files stay small, configuration imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "fcn"

# Every module may import those above it, and none below or beside it.
LEVELS = [
    [
        "fcn.commands",
        "fcn.config.choices",
        "fcn.data.palette",
        "fcn.faults",
        "fcn.readahead",
        "fcn.rendezvous",
        "fcn.watch",
    ],
    ["fcn.files"],
    ["fcn.config.schema", "fcn.tensorboard"],
    ["fcn.config.rules"],
    ["fcn.config.changes"],
    ["fcn.config"],
    ["fcn.models.subpixel"],
    ["fcn.data.voc", "fcn.models.upsampling", "fcn.models.weights", "fcn.losses", "fcn.metrics", "fcn.optim"],
    ["fcn.data.archive", "fcn.data.cache", "fcn.data.shapes", "fcn.data.transforms"],
    ["fcn.models.backbones", "fcn.diagnostics", "fcn.provenance", "fcn.runs"],
    ["fcn.data.images", "fcn.models.fcn", "fcn.models.baselines"],
    ["fcn.data.device", "fcn.data.sampling", "fcn.models.networks"],
    ["fcn.visualization.files", "fcn.visualization.figures", "fcn.visualization.masks"],
    ["fcn.boundary", "fcn.visualization.curves", "fcn.visualization.kernels", "fcn.visualization.legends"],
    ["fcn.visualization.comparisons", "fcn.visualization.panels", "fcn.visualization.searches"],
    ["fcn.visualization"],
    ["fcn.checkpoints", "fcn.computation", "fcn.data.module"],
    ["fcn.savepoints", "fcn.task"],
    ["fcn.console", "fcn.inference"],
    ["fcn.recording", "fcn.sources", "fcn.evaluation.counting", "fcn.exporting"],
    ["fcn.evaluation.files"],
    ["fcn.evaluation"],
    ["fcn.header"],
    ["fcn.experiment", "fcn.prediction"],
    ["fcn.comparison.bootstrap", "fcn.comparison.collect"],
    ["fcn.comparison.groups"],
    ["fcn.comparison.evaluations"],
    ["fcn.comparison.comparison"],
    ["fcn.comparison.tables"],
    ["fcn.comparison.files", "fcn.comparison.panels", "fcn.comparison.report"],
    ["fcn.comparison"],
    ["fcn.completion"],
    ["fcn.cli", "fcn.rerun", "fcn.resumption", "fcn.space"],
    ["fcn.agent", "fcn.plan", "fcn.scripting"],
    ["fcn.slots", "fcn.worker"],
    ["fcn.sweepboard", "fcn.preemption"],
    ["fcn.sweeps"],
    ["fcn.launch", "fcn.search"],
    ["fcn.benchmarks", "fcn.benchmarks.results", "fcn.benchmarks.measuring", "fcn.benchmarks.first_step"],
    ["fcn.benchmarks.settings", "fcn.benchmarks.loops", "fcn.benchmarks.report"],
    ["fcn.benchmarks.training", "fcn.benchmarks.start", "fcn.benchmarks.figure"],
    ["fcn.benchmarks.step", "fcn.benchmarks.breakdown", "fcn.benchmarks.roofline", "fcn.benchmarks.data"],
    ["fcn.benchmarks.evaluation", "fcn.benchmarks.upsampling", "fcn.benchmarks.ddp"],
    ["fcn.benchmarks.everything"],
]
LEVEL = {module: number for number, modules in enumerate(LEVELS) for module in modules}
PURE = {"fcn.data", "fcn.models"}  # packages without code of their own


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, also inside functions."""
    known = set(modules())
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        if isinstance(node, ast.ImportFrom) and node.module and node.module in known:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            others = {alias.name for alias in node.names if f"{node.module}.{alias.name}" not in known}
            found |= inner | ({node.module} if others else set())
    return found - {"fcn"}


@pytest.mark.parametrize("module", [name for name in modules() if name not in PURE | {"fcn"}])
def test_imports_only_from_above(module):
    assert module in LEVEL, f"{module} has no place in LEVELS"
    too_low = {other for other in imports(modules()[module]) if LEVEL[other] >= LEVEL[module]}
    assert not too_low


def test_data_and_models_do_not_import_each_other():
    for module, path in modules().items():
        if module.startswith("fcn.data."):
            assert not any(other.startswith("fcn.models") for other in imports(path)), module
        if module.startswith("fcn.models."):
            assert not any(other.startswith("fcn.data") for other in imports(path)), module


@pytest.mark.parametrize("module", modules())
def test_files_stay_small(module):
    assert len(modules()[module].read_text().splitlines()) <= 310


def test_configuration_files_stay_small():
    for path in (PACKAGE.parent / "conf").rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 32, path


def test_the_command_line_imports_no_torch():
    imported = "import sys, fcn.launch, fcn.comparison, fcn.visualization"
    code = f"{imported}; print(sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert "'hydra'" in loaded.stdout
    assert not {"torch", "pytorch_lightning", "torchvision"} & set(ast.literal_eval(loaded.stdout))


FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
SOURCES = sorted(path for top in ("fcn", "scripts", "hydra_plugins") for path in (PACKAGE.parent / top).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_files_of_others_are_data_and_never_code(path):
    """docs/security.md says so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {name.partition(".")[0] for name in names} & FORBIDDEN
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert called not in ("eval", "exec", "os.system", "yaml.load", "hydra.utils.instantiate")
            assert called != "torch.load" or given["weights_only"] == "True"
            assert called != "np.load" or given["allow_pickle"] == "False"
            assert not called.endswith("extractall") or given["filter"] == "'data'"
            assert given.get("shell", "False") == "False"
