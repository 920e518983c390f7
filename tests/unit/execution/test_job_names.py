"""Directory names of jobs."""

import pytest

from fcn.execution.job_names import job_names


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ([["a.b=1", "c=x"], ["a.b=2", "c=x"]], ["0_b-1", "1_b-2"]),
        ([["a=1"]], ["0_a-1"]),
        ([["data.root=/some/where"], ["data.root=../else"]], ["0_root-some-where", "1_root-..-else"]),
        ([["data.crop_size=[1,2]"], ["data.crop_size=[3,4]"]], ["0_crop-size-1-2", "1_crop-size-3-4"]),
        ([["model/init=xavier"], ["~lr"]], ["0_init-xavier", "1_lr"]),
    ],
)
def test_job_names(overrides, names):
    assert job_names(overrides) == names


def test_long_job_names_are_shortened_and_stay_distinct():
    names = job_names([[f"name={'x' * 300}{number}"] for number in range(3)])
    assert all(len(name) <= 80 for name in names)
    assert len(set(names)) == 3
