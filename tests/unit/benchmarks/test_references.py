"""The references compute what the measured code computes."""

import pytest
import torch

from benchmarks.evaluation import evaluate_plainly
from benchmarks.settings import make_tree
from benchmarks.training_loops import BareLoop, D2LLoop, random_batch
from benchmarks.upsampling import upsample_subpixel, upsample_transposed
from fcn.config import InferenceConfig
from fcn.config.choices import Accelerator
from fcn.config.composition import compose
from fcn.data import shapes
from fcn.evaluation.evaluator import evaluate, evaluation_images
from fcn.inference.predictor import Predictor
from fcn.training.train import build_task


def test_plain_evaluation_gives_our_confusion_matrix(tmp_path, shapes_root):
    source = shapes.ensure_shapes(shapes_root, num_train=2, num_val=1, seed=0)
    tree = make_tree(tmp_path / "tree", num_train=2, num_val=2, source=source)
    config = compose("data=voc", f"data.root={tree}", "trainer=cpu")
    torch.manual_seed(0)
    predictor = Predictor(build_task(config).network, InferenceConfig(accelerator=Accelerator.cpu))
    actual = evaluate(predictor, evaluation_images(config.data, "val", classes=config.data.classes))
    expected = evaluate_plainly(predictor, tree)
    assert expected.sum() > 10000
    assert (expected - actual.confusion).abs().sum() <= 10  # rounding at pixels on the edge of two classes


def test_bare_loop_and_d2l_loop_have_the_same_losses():
    config = compose(
        "experiment=d2l", "data.protocol=voc", "backbone.weights=none", "trainer=cpu", "trainer.precision=fp32",
        "batch_size=2", "data.crop_size=[32,64]",
    )  # fmt: skip
    torch.manual_seed(0)
    bare, d2l = BareLoop(config), D2LLoop(len(config.data.classes), device="cpu")
    ours, theirs = bare.task.network.model.state_dict(), d2l.net.state_dict()
    d2l.net.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    batch = d2l.prepare(random_batch(config))
    losses = []
    for _ in range(2):  # the second loss follows from the first gradients and the optimiser
        loss, correct = d2l.step(batch)
        assert 0 <= correct <= 2 * 32 * 64
        losses.append(bare.step().item())
        assert losses[-1] == pytest.approx(loss, rel=1e-4)
    assert losses[1] < losses[0]  # on the same batch


@pytest.mark.parametrize("stride", [2, 8, 16])
def test_subpixel_form_equals_transposed_convolution(stride):
    generator = torch.Generator().manual_seed(stride)
    shapes = [(2, 3, 4, 5), (3, 3, 2 * stride, 2 * stride), (3,)]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    ours, theirs = upsample_subpixel(*inputs), upsample_transposed(*inputs)
    assert ours.shape == (2, 3, 4 * stride, 5 * stride)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, gradient), torch.autograd.grad(theirs, inputs, gradient), strict=True
    ):
        torch.testing.assert_close(one, other)
