"""docs/clusters.md, and cluster jobs up to their submission; tests/distributed/test_cluster.py executes such runs."""

import os
import re
import shlex
import subprocess

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from torch.distributed.run import get_args_parser

from fcn import runs
from hydra_plugins import fcn_launcher
from tests.commands import ROOT, TINY, load_command, type_in

PAGE = (ROOT / "docs" / "clusters.md").read_text()
LINES = re.findall(r"^    (\S.*)$", PAGE, re.M)
TRAINING = [line for line in LINES if "train.py" in line]
TORCHRUN = [line for line in LINES if line.startswith("torchrun ")]
SEARCH = next(line for line in LINES if "tune.py" in line)


def test_every_command_of_the_page_is_tested():
    others = set(LINES) - {*TRAINING, *TORCHRUN, SEARCH}
    assert others == {
        "python -m fcn.worker outputs/<name>/<time>",
        'sbatch --nodes=2 --gpus-per-node=8 --time=8:00:00 scripts/slurm.sh "$run"',
    }
    assert len(TRAINING) == 8
    assert len(TORCHRUN) == 2


@pytest.mark.parametrize("line", TRAINING)
def test_training_commands_of_the_page_compose(line, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(re.sub(r"^run=\$\((.*)\)$", r"\1", line))[2:]
    arguments = [word.partition(",")[0] for word in words if word != "-m"]
    status, out, err = type_in(monkeypatch, capsys, *arguments, "--cfg", "all")
    assert status == 0, err
    for key, value in (word.split("=") for word in arguments if word.startswith("hydra.launcher.")):
        assert str(OmegaConf.select(OmegaConf.create(out), key)) == value


def test_search_of_the_page_composes(monkeypatch, capsys, tmp_path):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    options = SEARCH.partition("tune.py ")[2].split()
    status, out, err = type_in(monkeypatch, capsys, *options, "--cfg", "job", script=load_command("tune"))
    assert status == 0, err
    composed = OmegaConf.create(out)
    assert (composed.trials, composed.storage, composed.trainer.accelerator) == (100, "journal", "gpu")


@pytest.mark.parametrize("line", TORCHRUN)
def test_torchrun_accepts_the_options(line):
    options = get_args_parser().parse_args(shlex.split(line.replace("<", "").replace(">", ""))[1:])
    assert options.training_script == "fcn.worker"
    assert options.module


def test_slurm_script_has_valid_syntax():
    script = ROOT / "scripts" / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)


def test_missing_submitit_is_an_error_that_names_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    type_in(monkeypatch, capsys, "--cfg", "job")  # Hydra has looked for plugins
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "submitit_slurm.yaml")
    status, out, err = type_in(monkeypatch, capsys, "-m", "hydra/launcher=slurm", "lr=0.1,0.2")
    assert (status, out) == (1, "")
    assert err == 'error: hydra/launcher (=submitit_slurm) needs submitit; use pip install -e ".[slurm]"\n'


SBATCH = """#!/usr/bin/env bash
cp "$1" submitted.sh
echo "no such partition" >&2
exit 1
"""


def test_sweep_is_submitted_to_slurm_as_an_array(monkeypatch, capsys, tmp_path):
    """The job script and the error message of an sbatch that fails."""
    for name, text in (("srun", "#!/usr/bin/env bash\n"), ("sbatch", SBATCH)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    options = ("hydra/launcher=slurm", "hydra.launcher.partition=none", "hydra.launcher.gpus_per_node=8")
    status, _, err = type_in(monkeypatch, capsys, "-m", *options, "lr=0.1,0.2")
    assert status == 1
    assert err.splitlines()[-1] == "error: submitit could not execute the job: no such partition"
    submitted = (tmp_path / "submitted.sh").read_text()
    options = (
        "array=0-1%2", "gpus-per-node=8", "ntasks-per-node=1", "cpus-per-task=8", "time=240", "partition=none",
        "job-name=shapes", "signal=USR2@120",
    )  # fmt: skip
    assert all(f"#SBATCH --{option}\n" in submitted for option in options), submitted
    (sweep,) = (tmp_path / "outputs" / "shapes").iterdir()
    assert f"#SBATCH --output={sweep}/.submitit/%A_%a/" in submitted


def test_execute_false_only_creates_the_run_directory(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, err = type_in(monkeypatch, capsys, *TINY, "name=later", "lr=0.5", "trainer=ddp", "execute=false")
    assert status == 0, err
    (run,) = (tmp_path / "outputs" / "later").iterdir()
    assert out == f"{run.relative_to(tmp_path)}\n"
    assert f"python -m fcn.worker {run.relative_to(tmp_path)}" in err
    assert sorted(path.name for path in run.iterdir()) == [".hydra", runs.CONFIG]
    config = runs.load_config(run)
    assert config.execute
    assert config.lr == 0.5
    assert runs.load_overrides(run) == [*TINY, "name=later", "lr=0.5", "trainer=ddp"]


@pytest.mark.parametrize(
    ("command_line", "overrides", "name"),
    [
        (
            ["name=x", "lr=0.1,0.2", "data.crop_size=[64, 64]"],
            ["name=x", "lr=0.2", "data.crop_size=[64,64]"],
            "3_lr-0.2",
        ),
        (["model/init=bilinear,xavier", "lr=choice(1,2)"], ["model/init=xavier", "lr=1"], "3_init-xavier_lr-1"),
        (["name=x"], ["name=x", "seed=4"], "3_seed-4"),  # a sweeper's own choice
        (["lr=0.1"], ["lr=0.1"], "3_lr-0.1"),
        (None, ["a/b=c d", "lr=0.1"], "3_b-c-d_lr-0.1"),
    ],
)
def test_jobs_of_other_launchers_have_the_same_names(command_line, overrides, name, tmp_path):
    if command_line is not None:
        OmegaConf.save(OmegaConf.create({"hydra": {"overrides": {"task": command_line}}}), tmp_path / "multirun.yaml")
    assert fcn_launcher._job_directory(3, overrides, str(tmp_path)) == name


def test_job_of_another_launcher_is_no_dry_run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = ("hydra/launcher=basic", "trainer.dry_run_processes=2", "lr=0.1,0.2")
    status, out, err = type_in(monkeypatch, capsys, "-m", *options)
    assert (status, out) == (1, "")
    assert "error: trainer.dry_run_processes (=2) must be null except in a single train.py command" in err
    assert not [path for path in tmp_path.rglob(runs.CONFIG) if ".hydra" not in path.parts]


def test_long_job_name_is_shortened(tmp_path):
    assert len(fcn_launcher._job_directory(3, [f"name={'x' * 300}"], str(tmp_path))) == 80


@pytest.mark.slow
def test_jobs_of_submitit_share_the_folder_of_their_sweep(command):
    """The processes of the jobs compose again, with options that pickle has sent to them."""
    options = (*TINY, f"data.root={command.data}", "trainer=cpu", "trainer.sample_images=0", "epochs=1", "name=sweep")
    done = command(*options, "-m", "hydra/launcher=slurm_local", "lr=0.1,0.2")
    assert done.returncode == 0, done.stderr
    (sweep,) = (command.folder / "outputs" / "sweep").iterdir()
    jobs = [path for path in sweep.iterdir() if (path / runs.CONFIG).is_file()]
    assert sorted(path.name for path in jobs) == ["0_lr-0.1", "1_lr-0.2"]
    assert {runs.read_status(path) for path in jobs} == {runs.Status.finished}
