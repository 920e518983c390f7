"""CI runs the commands of CONTRIBUTING.md."""

import os
import re
import subprocess

import pytest
import yaml

from fcn.cli.hydra_entry import NEWEST_PYTHON
from tests.commands import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
COMMANDS = set(re.findall(r"^    (\S.*)$", CONTRIBUTING, re.M))
CI = ROOT / ".ci" / "run"


@pytest.fixture(scope="module")
def workflow() -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())


def lines(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_pull_request_runs_the_ci_script(workflow):
    assert {"push", "pull_request", "schedule"} <= set(workflow[True])  # YAML takes `on` for true
    assert lines(workflow["jobs"]["run"]) == [".ci/run"]
    assert "if" not in workflow["jobs"]["run"]
    assert os.access(CI, os.X_OK)
    subprocess.run(["bash", "-n", CI], check=True)


def test_weekly_job_runs_commands_of_contributing(workflow):
    install, *others = lines(workflow["jobs"]["weekly"])
    assert install == 'pip install -e ".[dev]" pip-audit'
    assert set(others) <= COMMANDS
    assert len(others) == 3


def test_ci_script_runs_first_commands_of_contributing():
    steps = CI.read_text()
    setup, linters, ci = re.findall(r"^    (\S.*)$", CONTRIBUTING, re.M)[:3]
    assert setup in (ROOT / "README.md").read_text()  # .ci/run reads it from there
    assert f'"{linters}"' in steps
    assert ci == ".ci/run"


def test_tests_named_in_the_ci_script_exist():
    named = re.findall(r"tests/[\w/]+\.py(?:::\w+)?", CI.read_text())
    assert len(named) > 10
    for name in named:
        path, _, function = name.partition("::")
        assert f"def {function}" in (ROOT / path).read_text(), name


def test_supported_versions_of_python_are_the_same_everywhere(workflow):
    project = (ROOT / "pyproject.toml").read_text()
    versions = re.findall(r"Programming Language :: Python :: (3\.\d+)", project)
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    major, minor = NEWEST_PYTHON
    assert versions[-1] == f"{major}.{minor}"
    assert f'requires-python = ">={versions[0]},<{major}.{minor + 1}"' in project
    assert workflow["jobs"]["run"]["strategy"]["matrix"]["python"] == versions
    assert f"fcn supports Python {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text()
