"""The matrix of invalid input: what users can get wrong, and the message that each mistake produces.

In tests/integration, test_bad_input.py compares the messages with messages.txt, and test_faults.py with faults.txt.
These two files are the only place where the full wording of messages is asserted. After a change of wording,

    UPDATE_MESSAGES=1 pytest -m "" tests/integration/test_bad_input.py

rewrites messages.txt (with `-k Keys`, only the messages of these cases); read the difference before you commit it.
faults.txt is edited by hand: <...> stands for text that differs from run to run.
"""

from pathlib import Path

MESSAGES = Path(__file__).with_name("messages.txt")
FAULTS = Path(__file__).with_name("faults.txt")


def read_messages(path: Path) -> dict[str, str]:
    """Return the messages of a file by their first line, which names the case."""
    blocks = path.read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    return {name: message for name, _, message in (block.partition("\n") for block in blocks)}


def write_messages(path: Path, messages: dict[str, str]) -> None:
    """Write messages to a file, separated by empty lines."""
    path.write_text("\n\n".join(f"{name}\n{message}" for name, message in messages.items()) + "\n", encoding="utf-8")
