"""Structure of the package: imports in one direction, short files, unique names, no torch in the command line."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "fcn"

# A package may import itself and the packages above it in this list; `data` and `models` do not import each other.
LEVELS = [
    ["errors"],
    ["config"],
    ["runs"],
    ["data", "models"],
    ["visualization"],
    ["inference"],
    ["evaluation"],
    ["training"],
    ["comparison"],
    ["execution"],
    ["cli"],
    ["worker"],
]
LEVEL = {package: number for number, packages in enumerate(LEVELS) for package in packages}


def modules() -> dict[str, Path]:
    """Return the files of the package by module name."""
    paths = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def imported_packages(path: Path) -> set[str]:
    """Return the packages below `fcn` that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("fcn.")}


def test_every_package_has_a_level():
    entries = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith(("_", "py."))}
    assert entries - {"conf"} == set(LEVEL)


@pytest.mark.parametrize("module", [name for name in modules() if name != "fcn"])
def test_imports_go_one_way(module):
    own = module.split(".")[1]
    others = imported_packages(modules()[module]) - {own}
    upward = {other for other in others if LEVEL[other] >= LEVEL[own]}
    assert not upward


@pytest.mark.parametrize("module", modules())
def test_files_are_short(module):
    assert len(modules()[module].read_text().splitlines()) <= 310


def test_configuration_files_are_short():
    for path in (PACKAGE.parent / "conf").rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 32, path


def test_command_line_and_figures_import_no_torch():
    drawing = [name for name in modules() if name.startswith(("fcn.comparison", "fcn.visualization"))]
    imported = f"import sys, fcn.cli.train, {', '.join(drawing)}"
    code = f"{imported}; print(sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert "'hydra'" in loaded.stdout
    assert not {"torch", "pytorch_lightning", "torchvision"} & set(ast.literal_eval(loaded.stdout))


FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
SOURCES = sorted(path for top in ("fcn", "scripts", "hydra_plugins") for path in (PACKAGE.parent / top).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_files_are_read_as_data_and_never_as_code(path):
    """docs/troubleshooting.md, Security."""
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


def public_definitions() -> dict[str, list[str]]:
    """Return the modules that define each public class or function."""
    definitions: dict[str, list[str]] = {}
    for module, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                definitions.setdefault(node.name, []).append(module)
    return definitions


def test_public_names_are_defined_once():
    repeated = {name for name, where in public_definitions().items() if len(where) > 1} - {"main"}
    assert not repeated


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_values_are_named_by_what_they_are(path):
    """CONTRIBUTING.md, Guidelines."""
    nodes = ast.walk(ast.parse(path.read_text()))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert not names & {"found", "told", "shown", "wanted"}
