"""README, CONTRIBUTING, docs/ and the texts of the notebook, and the commands in them."""

import json
import re

from tests.commands import ROOT

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
TUTORIAL = PAGES["tutorial.md"]
_CELLS = json.loads((ROOT / "notebooks" / "fcn_chapter.ipynb").read_text())["cells"]
NOTEBOOK = "\n\n".join("".join(cell["source"]) for cell in _CELLS if cell["cell_type"] == "markdown")

INLINE = r"`((?:[A-Z_]+=\S+ )?(?:python3?|pip|tensorboard|torchrun|pytest|ssh) [^`]*|python train\.py)`"


def indented_commands(text: str) -> list[str]:
    """Return the lines that a reader is asked to run: indented by four spaces, outside fenced blocks."""
    return re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)


def commands(text: str) -> set[str]:
    """Return all commands of a page, also those inside sentences and tables."""
    return {*indented_commands(text), *re.findall(INLINE, text)}


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.S)


def presets(text: str) -> dict[str, str]:
    """Return the YAML files of a page by the path in their first line."""
    return dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", text, re.S))


def overrides(text: str) -> list[str]:
    """Return inline code of the form `key=value` that is not part of a longer command."""
    return re.findall(r"`('?[a-z_]+(?:[./][a-z0-9_]+)*=[^`\n]+)`", text)


def fill_placeholders(line: str, value: str = "x") -> str:
    return re.sub(r"<[^>]*>", value, line)


def expanded_characters(line: str) -> set[str]:
    """Return the characters of a command that zsh would expand, because they are not quoted."""
    unquoted = re.sub(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.", "", fill_placeholders(line))
    return set(unquoted) & set("[]*?{}~")
