"""Names of runs and sweeps in services."""

from pathlib import Path

import pytest

from fcn.config import Config
from fcn.runs.run_names import run_name, sweep_name


@pytest.mark.parametrize(
    ("name", "run_dir", "sweep", "run"),
    [
        ("voc", "outputs/voc/2026-01-31", None, "voc/2026-01-31"),
        ("voc", "outputs/voc/2026-01-31/0_lr-1", "voc/2026-01-31", "voc/2026-01-31/0_lr-1"),
        ("voc", "outputs/voc/tune-lr/3_lr-1", "voc/tune-lr", "voc/tune-lr/3_lr-1"),
        ("mine/a", "outputs/mine/a/12", None, "mine/a/12"),
        ("mine/a", "outputs/mine/a/12/0", "mine/a/12", "mine/a/12/0"),
        ("voc", "elsewhere/12", None, "voc/12"),
    ],
)
def test_names_follow_the_folders(name, run_dir, sweep, run):
    config = Config(name=name)
    assert (sweep_name(config, Path(run_dir)), run_name(config, Path(run_dir))) == (sweep, run)


def test_folder_of_another_sweep_is_known_by_its_file(tmp_path):
    (tmp_path / "multirun.yaml").touch()
    assert sweep_name(Config(name="voc"), tmp_path / "0") == f"voc/{tmp_path.name}"
