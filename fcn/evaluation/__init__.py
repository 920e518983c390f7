"""Scores of a trained network on a set: counted over whole images, each once, and written to files."""

from fcn.evaluation.counting import Evaluation, Judged, evaluate, find_images
from fcn.evaluation.files import write_evaluation

__all__ = ["Evaluation", "Judged", "evaluate", "find_images", "write_evaluation"]
