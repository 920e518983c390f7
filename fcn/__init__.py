"""Fully convolutional networks on Pascal VOC: configuration, training, evaluation and comparison of runs."""

__version__ = "0.1.0"
