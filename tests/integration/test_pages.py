"""Commands, links and file names of README, CONTRIBUTING, docs/ and the notebook are valid."""

import copy
import functools
import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence

import hydra
import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from omegaconf import DictConfig, OmegaConf

from fcn.config import Config, composition, validate, validate_run
from fcn.config.components import GROUPS, LIST_GROUPS
from fcn.config.overrides import choose_length
from fcn.config.reference import reference
from tests.commands import ROOT, load_command, type_in
from tests.pages import (
    CONTRIBUTING,
    NOTEBOOK,
    PAGES,
    README,
    commands,
    expanded_characters,
    fill_placeholders,
    overrides,
    presets,
    python_blocks,
)

TEXTS = {
    **{"README.md": README, "CONTRIBUTING.md": CONTRIBUTING, "notebooks/fcn_chapter.ipynb": NOTEBOOK},
    **{f"docs/{name}": PAGES[name] for name in PAGES},
}


def lines_of(pages: Iterable[str], *, program: str) -> list[str]:
    """Return every command of `pages` that runs `program` once, with x in place of its placeholders."""
    lines = {fill_placeholders(line) for page in pages for line in commands(page)}
    return sorted(line for line in lines if line.split()[:2] == ["python", program])


@functools.cache
def composed(config_name: str, schema: type, groups: tuple[str, ...]) -> DictConfig:
    """Return the configuration of groups alone; most commands share theirs, and composing takes most of the time."""
    composition.register_schema(schema)
    with initialize_config_dir(str(composition.CONF), version_base="1.3"):
        return hydra.compose(config_name, list(groups))


def first_value(override: Override) -> object:
    value = override.value()
    return value.list[0] if isinstance(value, ChoiceSweep) else value


def as_written(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def is_group(key: str) -> bool:
    return key in (*GROUPS, *LIST_GROUPS) or (composition.CONF / key).is_dir()


def check(words: Sequence[str], *, config_name: str = "config", schema: type = Config) -> None:
    """Compose the overrides of a command with the first value of each sweep, except those of Hydra itself."""
    task = [word for word in words if "=" in word and not word.startswith(("hydra", "-"))]
    chosen = {str(one.key_or_group): first_value(one) for one in OverridesParser.create().parse_overrides(task)}
    groups = tuple(f"{key}={as_written(value)}" for key, value in chosen.items() if is_group(key))
    config = copy.deepcopy(composed(config_name, schema, groups))
    for key, value in chosen.items():
        if not is_group(key):
            OmegaConf.update(config, key, value)
    choose_length(config, task)
    (validate_run if schema is Config else functools.partial(validate, schema=schema))(config)


@pytest.mark.parametrize("line", lines_of([*PAGES.values(), NOTEBOOK], program="train.py"))
def test_training_command_composes(line, tmp_path, monkeypatch, capsys):
    """Other tests cover resume and rerun, with real runs."""
    if "--config-dir" not in line:
        check(shlex.split(line)[2:])
        return
    for path, text in (preset for page in PAGES.values() for preset in presets(page).items()):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    words = [word for word in shlex.split(line)[2:] if word != "-m"]
    first_job = [re.sub(r"^(\w+=[^,\[]*),.*", r"\1", word) for word in words]  # --cfg does not compose a sweep
    status, _, err = type_in(monkeypatch, capsys, *first_job, "--cfg", "job")
    assert status == 0, err


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "scripts").glob("[!_]*.py")))
def test_script_accepts_the_arguments_on_the_pages(name):
    """Some scripts have an argument parser, the others use Hydra. Other tests run them."""
    script = load_command(name)
    lines = lines_of(TEXTS.values(), program=f"scripts/{name}.py")
    assert lines
    for line in lines:
        words = shlex.split(line)[2:]
        if parser := getattr(script, f"{name}_parser", None):
            arguments = parser().parse_intermixed_args(words)
            assert name != "benchmark" or set(arguments.what) <= set(script.NAMES), line
        else:
            check(words, config_name=name, schema=getattr(script, f"{name.partition('_')[0].capitalize()}Config"))


@pytest.mark.parametrize("page", TEXTS)
def test_commands_are_quoted_for_zsh(page):
    """zsh, the default shell of macOS, refuses an unquoted word with brackets that matches no file."""
    for line in {*commands(TEXTS[page]), *overrides(TEXTS[page])}:
        if page != "docs/configuration.md" or " " in line:  # its tables list values, not commands
            assert not expanded_characters(line), line


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda path: path.stem)
def test_commands_of_conf_are_quoted_for_zsh(path):
    """Commands in comments and help texts are copied into a shell as well."""
    for line in re.findall(r"^[# ]+((?:python3?|torchrun) .*)$", path.read_text(), re.M):
        assert not expanded_characters(line), line


@pytest.mark.parametrize(
    ("line", "characters"),
    [
        ("python train.py data.crop_size=[64,64]", "[]"),
        ("python train.py 'data.crop_size=[64,64]' name=\"a[0]\"", ""),
        ("python scripts/predict.py run=<run> input=photos/*.jpg", "*"),
        ("python scripts/tune.py search.lr={low: 1, high: 2}", "{}"),
    ],
)
def test_expanded_characters_are_detected(line, characters):
    assert expanded_characters(line) == set(characters)


def test_configuration_reference_is_up_to_date():
    assert PAGES["configuration.md"] == reference(), "run: python -m fcn.config.reference > docs/configuration.md"


def test_readme_links_every_page():
    assert {f"docs/{page}" for page in PAGES} <= set(re.findall(r"\]\(([^)]+)\)", README))


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_files_exist(page):
    folder = (ROOT / page).parent
    for target, _, fragment in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", TEXTS[page])):
        if "://" in target:
            continue
        path = folder / target if target else ROOT / page
        assert path.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            assert fragment in map(anchor, headings), f"{target}#{fragment}"
    for name in re.findall(r"\b((?:fcn|tests|conf|scripts|docs)/[\w/]+\.(?:py|yaml|md|png|sh))\b", TEXTS[page]):
        assert (ROOT / name).exists(), name
    for block in python_blocks(TEXTS[page]):
        compile(block, page, "exec")


def listed_files(text: str) -> dict[str, str]:
    """Return the entries of a source tree by their path from its root, which is in its first line."""
    (tree,) = re.findall(r"```text\n(fcn/\n.*?)```", text, re.S)
    parents: list[str] = []
    entries = {}
    for line in tree.splitlines():
        name, _, phrase = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        entries["".join(parents)] = phrase.strip()
    return entries


def tracked_files() -> set[str]:
    output = subprocess.run(["git", "ls-files", "fcn"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in output.split() if not name.endswith(("__init__.py", "py.typed"))}


def test_source_tree_of_the_readme_lists_every_package():
    packages = {"fcn/" + re.sub("/.*", "/", name.removeprefix("fcn/")) for name in tracked_files()}
    assert set(listed_files(README)) - {"fcn/"} == packages


def test_source_tree_of_contributing_lists_every_file():
    entries = listed_files(CONTRIBUTING)
    assert {name for name in entries if not name.endswith("/")} == tracked_files()
    assert all(phrase for name, phrase in entries.items() if name != "fcn/")
