"""Data of an evaluation: those of the run, with the overrides of the command."""

import pytest

from fcn.config import flatten, to_container
from fcn.data.dataset_options import VocData
from fcn.evaluation.evaluation_plan import merge_data

RUN = VocData(root="there", val_split="mine", classes=["ground", "cat"])
COMPOSED = VocData(root="new", download=True, val_split="other")


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["run=x", "split=val"], {}),
        (["data.root=new", "+data.download=true"], {"root": "new", "download": True}),
    ],
)
def test_overridden_keys_replace_those_of_the_run(overrides, changes):
    merged = flatten(to_container(merge_data(RUN, COMPOSED, overrides)))
    assert merged == {**flatten(to_container(RUN)), **changes}


def test_overridden_group_replaces_the_data_of_the_run():
    assert merge_data(RUN, COMPOSED, ["data=voc"]) == COMPOSED
