"""Contents of the wheel and the source distribution, and the installed commands outside a checkout."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import fcn
from fcn import runs
from tests.commands import ROOT, TINY

COMMANDS = [
    "fcn-train", "fcn-evaluate", "fcn-predict", "fcn-export", "fcn-compare", "fcn-tune", "fcn-prepare-voc",
    "fcn-upsample",
]  # fmt: skip
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_changelog_begins_with_unreleased_or_this_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] in ("Unreleased", fcn.__version__)
    assert len(set(headings)) == len(headings)


def build(source: Path, folder: Path, kind: str) -> Path:
    """Build like `python -m build`, whose isolated environment would need the network."""
    backend = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", backend], cwd=source, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """Source distribution, built from a copy to leave the checkout unchanged."""
    source = tmp_path_factory.mktemp("source")
    for name in TRACKED:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    return build(source, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(source)
    return build(next(source.iterdir()), tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.mark.slow
def test_source_distribution_contains_the_checkout(sdist):
    assert sdist.name == f"fcn-{fcn.__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    assert {name for name in files - made if ".egg-info/" not in name} == set(TRACKED) - {".gitignore"}


@pytest.mark.slow
def test_wheel_contains_package_configuration_and_commands_only(wheel):
    assert wheel.name == f"fcn-{fcn.__version__}-py3-none-any.whl"
    folders = {"fcn": "fcn", "conf": "fcn/conf", "hydra_plugins": "hydra_plugins"}
    expected = {f"{folders[top]}/{rest}" for top, _, rest in (n.partition("/") for n in TRACKED) if top in folders}
    with zipfile.ZipFile(wheel) as archive:
        info = f"fcn-{fcn.__version__}.dist-info/"
        files = {name for name in archive.namelist() if not name.startswith(info)}
        metadata = archive.read(f"{info}METADATA").decode()
        console = re.findall(r"^(\S+) = ", archive.read(f"{info}entry_points.txt").decode(), re.M)
        assert f"{info}licenses/LICENSE" in archive.namelist()
    assert files == expected
    assert sorted(console) == sorted(COMMANDS)
    assert "\n\n# fcn\n\n" in metadata  # README.md


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Folder of the commands of an environment in which the wheel is installed, with the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=True)  # this environment may have no pip, for example one made by uv
    python = folder / "bin" / "python"
    quiet = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--no-cache-dir"]
    subprocess.run([python, "-m", "pip", "install", *quiet, wheel], check=True)
    # A .pth file makes packages importable without executing the .pth file of the checkout.
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python.parent


@pytest.fixture
def run(installed, tmp_path, monkeypatch):
    """Standard output of a command of the installed wheel, in a folder outside the checkout."""
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(command: str, *arguments: str) -> str:
        done = subprocess.run([installed / command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_installed_commands_show_their_help(run):
    load = "from importlib.metadata import distribution as d; [p.load() for p in d('fcn').entry_points]; import fcn"
    assert str(ROOT) not in run("python", "-c", f"{load}; print(fcn.__file__)")
    for command in COMMANDS:
        assert len(run(command, "--help")) > 200


@pytest.mark.exhaustive
def test_installed_commands_work_outside_a_checkout(run, tmp_path):
    """A sweep uses the launcher that Hydra finds in hydra_plugins, and executes its job in another process."""
    run("fcn-train", "-m", "lr=0.1", *TINY, "epochs=1", "trainer=cpu", "name=outside", "data.root=data")
    (sweep,) = (tmp_path / "outputs" / "outside").iterdir()
    (run_dir,) = (path for path in sweep.iterdir() if path.is_dir())
    summary = runs.read_summary(run_dir)
    assert summary["status"] == "finished"
    sample = f"input={run_dir}/curves.png"
    assert f"{summary['metrics']['val/mean_iou']:.3f}" in run("fcn-compare", str(sweep))
    run("fcn-evaluate", f"run={run_dir}", "split=val", "worst=0")
    run("fcn-predict", f"run={run_dir}", sample, "inference=tiled", "accelerator=cpu")
    assert (tmp_path / "predictions" / "curves.png").is_file()
    run("fcn-upsample", sample, "factor=2")
    (drawn,) = (path.parent for path in (tmp_path / "data").rglob("VOCdevkit"))
    run("fcn-prepare-voc", f"root={drawn}", "workers=1")
