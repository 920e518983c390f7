"""Synthetic run directories with the files that train.py and scripts/evaluate.py write."""

import copy
import functools
import json
from pathlib import Path

import numpy as np

from fcn import config as configuration
from fcn import runs
from fcn.config import Config
from fcn.evaluation.scores import class_counts, mean_iou

CLASSES = ["ground", "cat", "dog"]
SETTINGS = {"inference": "whole", "tile_size": [320, 480], "flip": False, "scales": [1.0]}


def default_config() -> dict:
    return copy.deepcopy(_default_config())


@functools.cache
def _default_config() -> dict:
    config = configuration.to_container(Config(name="x"))
    config["data"]["classes"] = CLASSES
    return config


def make_run(
    path: Path, *, status: str | None = "finished", mean_iou: float = 0.5, epochs: int = 3, **settings: object
) -> Path:
    """Write a run directory; settings are dotted keys with `__` for the dot. Without a status there is no summary."""
    config = default_config()
    for key, value in settings.items():
        *sections, last = key.split("__")
        functools.reduce(dict.__getitem__, sections, config)[last] = value
    path.mkdir(parents=True)
    (path / runs.CONFIG).write_text(json.dumps(config))  # JSON is YAML, and faster to write
    rows = [
        {
            "epoch": epoch,
            "step": epoch + 1,
            "train/loss": 2 / (epoch + 1),
            "val/mean_iou": mean_iou * (epoch + 1) / epochs,
        }
        for epoch in range(epochs)
    ]
    if rows:
        runs.write_metrics(path, rows)
    if status:
        metrics = {"train/loss": 2 / max(1, epochs), "val/pixel_accuracy": 0.9, "val/mean_iou": mean_iou}
        metrics |= {f"val/iou/{name}": mean_iou + place / 100 for place, name in enumerate(CLASSES)}
        best = {"epoch": epochs - 1, "val/mean_iou": mean_iou + 0.01, "checkpoint": runs.BEST}
        runs.write_summary(path, {"status": status, "metrics": metrics, "best": best, "images_per_second": 20.0})
    return path


def random_confusions(num_images: int, *, seed: int, classes: int = 3, targets_seed: int = 0) -> np.ndarray:
    """Return matrices [N, C, C] of images of 1000 pixels; `seed` is that of the predictions."""
    targets = np.random.default_rng(targets_seed).multinomial(1000, [1 / classes] * classes, size=num_images)
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(classes), size=(num_images, classes))
    return np.stack([[rng.multinomial(n, p) for n, p in zip(*one, strict=True)] for one in zip(targets, shares)])  # noqa: B905


def make_evaluation(
    run: Path, confusions: np.ndarray, *, split: str = "val", folder: Path | None = None, **changes: object
) -> None:
    """Write an evaluation; `changes` are `names`, `classes`, `checkpoint`, `sha256`, keys of `data`, and settings."""
    folder = folder or run / "evaluation" / split
    folder.mkdir(parents=True, exist_ok=True)
    names = changes.pop("names", [f"image_{place}" for place in range(len(confusions))])
    classes = changes.pop("classes", CLASSES)
    np.savez_compressed(folder / "confusions.npz", names=np.array(names), confusions=confusions)
    origin = {"checkpoint": changes.pop("checkpoint", runs.BEST), "checkpoint_sha256": changes.pop("sha256", None)}
    config = json.loads((run / runs.CONFIG).read_text()) if (run / runs.CONFIG).is_file() else default_config()
    origin["data"] = {**config["data"], **changes.pop("data", {})}
    settings = {**SETTINGS, "batch_size": 1, "device": "CPU", **changes}
    scores = {"mean_iou": float(mean_iou(class_counts(confusions).total().iou()))}
    content = {"split": split, **origin, "settings": settings, "scores": scores, "iou": dict.fromkeys(classes, 0.5)}
    (folder / "evaluation.json").write_text(json.dumps(content))
