"""Text of overrides: split, filtered, and formatted so that Hydra reads the same value."""

import subprocess
import sys

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fcn.config import Config
from fcn.config.overrides import for_shell, format_value, parse_overrides, values_by_key, without_keys
from fcn.config.written_text import quote_texts


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()))
def test_hydra_parses_a_formatted_value(value):
    (override,) = parse_overrides([f"key={format_value(value)}"])
    assert override.value() == value


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
@example("größe.pth")
def test_hydra_parses_a_formatted_text(text):
    """Also within a list. The prefix keeps the text from being a number or null."""
    (override,) = parse_overrides([f"key=[{format_value('x' + text)},y]"])
    assert [str(one) for one in override.value()] == ["x" + text, "y"]


def test_values_by_key_ignore_signs_packages_and_slashes():
    overrides = ["model/init=xavier", "+lr=1", "a@b=c", "++name=x=y", "~optim"]
    assert values_by_key(overrides) == {"model.init": "xavier", "lr": "1", "a": "c", "name": "x=y", "optim": ""}


def test_without_keys_keeps_keys_that_only_begin_alike():
    overrides = ["resume=a", "++resume=b", "resume_from=c", "trainer.resume=d", "rerun=e", "lr=1"]
    assert without_keys(overrides, "resume", "rerun") == ["resume_from=c", "trainer.resume=d", "lr=1"]


def test_text_functions_import_no_hydra():
    code = "import sys, fcn.config.overrides; assert not [name for name in sys.modules if name.startswith('hydra')]"
    subprocess.run([sys.executable, "-c", code], check=True)


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(lambda text: text.lower() != "null"))
@example("outputs/my runs (2)/it's")
@example("$HOME/a=b,`c`\\")
def test_override_pasted_into_a_shell_is_the_value(value):
    command = f"printf %s {for_shell('resume', value)}"
    pasted = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=True).stdout.decode()
    (override,) = parse_overrides(quote_texts([pasted], Config))
    assert str(override.value()) == value


def test_functions_and_dicts_are_parsed_without_assertions():
    code = (
        "import fcn.config.composition as composition; from fcn.config.overrides import parse_overrides; "
        "sweep, entry = parse_overrides(['lr=range(1,3)', 'search.lr={low: 1, high: 2}']); "
        "print(list(sweep.sweep_iterator()), entry.value())"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[1, 2] {'low': 1, 'high': 2}\n"
