"""What is released: the wheel and the source distribution hold what they should, and work where no checkout is."""

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
from fcn.config import paths
from tests.commands import ROOT, TINY

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_the_changelog_has_a_place_for_this_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] in ("Unreleased", fcn.__version__)
    assert len(set(headings)) == len(headings)


def build(source: Path, folder: Path, kind: str) -> Path:
    """As `python -m build`, whose isolated environment would need the network."""
    backend = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", backend], cwd=source, check=True, capture_output=True)
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """Made from a clean copy, so that the checkout stays as it is."""
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
def test_the_source_distribution_is_the_checkout(sdist):
    assert sdist.name == f"fcn-{fcn.__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    assert {name for name in files - made if ".egg-info/" not in name} == set(TRACKED) - {".gitignore"}


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_configuration_and_its_commands(wheel):
    assert wheel.name == f"fcn-{fcn.__version__}-py3-none-any.whl"
    inside = {"fcn": "fcn", "conf": "fcn/conf", "scripts": "fcn/scripts", "hydra_plugins": "hydra_plugins"}
    expected = set()
    for name in TRACKED:
        folder, _, rest = name.partition("/")
        if folder in inside:
            expected.add(f"{inside[folder]}/{rest}")
    with zipfile.ZipFile(wheel) as archive:
        info = f"fcn-{fcn.__version__}.dist-info/"
        files = {name for name in archive.namelist() if not name.startswith(info)}
        metadata = archive.read(f"{info}METADATA").decode()
        console = set(re.findall(r"^(\S+) = ", archive.read(f"{info}entry_points.txt").decode(), re.M))
        assert f"{info}licenses/LICENSE" in archive.namelist()
    assert files == expected
    assert console == {f"fcn-{name.replace('_', '-')}" for name in paths.NAMES}
    assert "# fcn\n\nConfig-driven experiments" in metadata  # README.md


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Folder of the commands of an environment in which the wheel is installed, with the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    quiet = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--no-cache-dir"]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", *quiet, str(wheel)], check=True)
    # As a .pth file it makes packages visible, and does not execute the one that leads to the checkout.
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python.parent


@pytest.mark.slow
def test_the_commands_work_where_no_checkout_is(installed, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(*line: str) -> str:
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    load = "from importlib.metadata import distribution as d; [p.load() for p in d('fcn').entry_points]; import fcn"
    assert str(ROOT) not in run(str(installed / "python"), "-c", f"{load}; print(fcn.__file__)")
    helped = run(str(installed / "fcn-train"), "--help")
    assert "\n  fcn-train model.init=xavier lr=0.01" in helped
    assert "train.py" not in helped
    # A sweep: by the launcher that Hydra finds in hydra_plugins, and in a process of its own.
    told = run(str(installed / "fcn-train"), "-m", "lr=0.1", *TINY, "epochs=1", "trainer=cpu", "name=outside")
    (sweep,) = (tmp_path / "outputs" / "outside").iterdir()
    assert f"more by fcn-compare {sweep.relative_to(tmp_path)}" in told
    (run_dir,) = (path for path in sweep.iterdir() if path.is_dir())
    assert runs.read_summary(run_dir)["status"] == "finished"
