"""The loops that are compared compute the same."""

import pytest
import torch

from benchmarks.loops import BareLoop, Chapter, random_batch
from fcn.config.composition import compose


@pytest.fixture
def config():
    return compose(
        "experiment=d2l", "data.protocol=voc", "backbone.weights=none", "trainer=cpu", "trainer.precision=fp32",
        "batch_size=2", "data.crop_size=[32,64]",
    )  # fmt: skip


def test_two_steps_of_both_have_the_same_losses(config):
    torch.manual_seed(0)
    bare, chapter = BareLoop(config), Chapter(len(config.data.classes), device="cpu")
    ours, theirs = bare.task.network.model.state_dict(), chapter.net.state_dict()
    chapter.net.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    batch = chapter.as_it_reads(random_batch(config))
    losses = []
    for _ in range(2):  # the second follows from the gradients and the optimiser of the first
        loss, right = chapter.step(batch)
        assert 0 <= right <= 2 * 32 * 64
        losses.append(bare.step().item())
        assert losses[-1] == pytest.approx(loss, rel=1e-4)
    assert losses[1] < losses[0]  # on the same batch
