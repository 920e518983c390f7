"""The plain loop counts what our evaluation counts."""

import torch

from benchmarks.evaluation import plain_loop
from benchmarks.settings import make_tree
from fcn.config import Accelerator, InferenceConfig
from fcn.config.composition import compose
from fcn.data import shapes
from fcn.evaluation.evaluator import evaluate, evaluation_images
from fcn.inference.predictor import Predictor
from fcn.training.train import build_task


def test_both_count_the_same(tmp_path, shapes_root):
    source = shapes.ensure_shapes(shapes_root, num_train=2, num_val=1, seed=0)
    tree = make_tree(tmp_path / "tree", num_train=2, num_val=2, source=source)
    config = compose("data=voc", f"data.root={tree}", "trainer=cpu")
    torch.manual_seed(0)
    predictor = Predictor(build_task(config).network, InferenceConfig(accelerator=Accelerator.cpu))
    found = evaluate(predictor, evaluation_images(config.data, "val", classes=config.data.classes))
    expected = plain_loop(predictor, tree)
    assert expected.sum() > 10000
    assert (expected - found.confusion).abs().sum() <= 10  # a pixel on the edge of two classes is rounding's
