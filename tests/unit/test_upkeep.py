"""What looks after the project runs what CONTRIBUTING.md says, and that is what it is."""

import os
import re
import subprocess

import pytest
import yaml

from tests.commands import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
COMMANDS = set(re.findall(r"^    (\S.*)$", CONTRIBUTING, re.M))
CI = ROOT / ".ci" / "run"


@pytest.fixture(scope="module")
def workflow() -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())


def lines(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_a_pull_request_runs_what_everybody_can_run(workflow):
    assert {"push", "pull_request", "schedule"} <= set(workflow[True])  # YAML takes `on` for true
    assert lines(workflow["jobs"]["run"]) == [".ci/run"]
    assert "if" not in workflow["jobs"]["run"]
    assert os.access(CI, os.X_OK)
    subprocess.run(["bash", "-n", CI], check=True)


def test_the_weekly_job_runs_the_commands_of_the_page(workflow):
    install, *others = lines(workflow["jobs"]["weekly"])
    assert install == 'pip install -e ".[dev]" pip-audit'
    assert set(others) <= COMMANDS
    assert len(others) == 3


def test_ci_runs_the_first_commands_of_the_page():
    steps = CI.read_text()
    setup, linters, ci = re.findall(r"^    (\S.*)$", CONTRIBUTING, re.M)[:3]
    assert setup in (ROOT / "README.md").read_text()  # from where .ci/run takes it
    assert f'"{linters}"' in steps
    assert ci == ".ci/run"
