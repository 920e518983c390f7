"""Loggers of a run: TensorBoard, a table, W&B, MLflow, and any logger of Lightning from outside."""
