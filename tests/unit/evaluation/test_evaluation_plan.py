"""Data of an evaluation: those of the run, with the overrides of the command."""

import pytest

from fcn.config import DataConfig, ShapesConfig, flatten, to_container
from fcn.config.choices import DatasetName
from fcn.evaluation.evaluation_plan import merge_data

RUN = DataConfig(name=DatasetName.voc, root="there", val_split="mine", classes=["ground", "cat"])
COMPOSED = DataConfig(root="new", download=True, val_split="other", shapes=ShapesConfig(num_val=3))


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["run=x", "split=val"], {}),
        (["data.root=new", "+data.download=true"], {"root": "new", "download": True}),
        (["data.shapes.num_val=3"], {"shapes.num_val": 3}),
    ],
)
def test_overridden_keys_replace_those_of_the_run(overrides, changes):
    merged = flatten(to_container(merge_data(RUN, COMPOSED, overrides)))
    assert merged == {**flatten(to_container(RUN)), **changes}


def test_overridden_group_replaces_the_data_of_the_run():
    assert merge_data(RUN, COMPOSED, ["data=voc"]) == COMPOSED
