"""Inference: the predictor, image files, predicted files and export."""
