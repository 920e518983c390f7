"""Evaluation: metrics, boundary metrics, evaluation of a set, and its files."""
