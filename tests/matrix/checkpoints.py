"""Invalid checkpoints, run directories and weight files."""

import fcntl
import json
from pathlib import Path

import torch

from fcn import runs
from tests.matrix.case import OWN, Case, Malicious, change_checkpoint, own_data
from tests.voc_tree import truncate, write_list

SAVED = ("run/checkpoints/best.ckpt", "run/checkpoints/last.ckpt")


def evaluate(description: str, spoil, *arguments: str) -> Case:
    """Return a case of scripts/evaluate.py on a run whose checkpoints `spoil` has changed."""

    def given(folder: Path) -> None:
        own_data(folder)
        for name in SAVED:
            spoil(folder / name)

    return Case(description, ("run=run", *arguments), script="evaluate", given=given)


def weights(description: str, make) -> Case:
    """Return a case of a run that loads the state dict that `make` writes."""

    def given(folder: Path) -> None:
        own_data(folder)
        make(folder / "weights.pth")

    return Case(description, (*OWN, "backbone.weights=weights.pth"), given=given)


def other_classes(content: dict) -> None:
    content["config"]["data"]["classes"] = ["background", "cat", "dog"]


def other_backbone(content: dict) -> None:
    content["config"]["backbone"]["name"] = "resnet18"


def from_newer_version(content: dict) -> None:
    content["config"]["model"]["attention"] = "cross"


def malicious(path: Path) -> None:
    torch.save({"config": {}, "state_dict": Malicious()}, path)


CHECKPOINTS = [
    Case("no such run", ("run=nowhere",), script="evaluate"),
    Case("`run` is missing", (), script="evaluate"),
    Case("an empty `run`, for example from an unset shell variable", ("run=",), script="evaluate"),
    Case("a folder that is not a run", ("run=VOCdevkit",), script="evaluate", given=own_data),
    evaluate("a run without a checkpoint", Path.unlink),
    evaluate("a truncated checkpoint", truncate),
    evaluate("an empty checkpoint", lambda path: truncate(path, 0)),
    evaluate("a text file instead of a checkpoint", lambda path: path.write_text("no checkpoint")),
    evaluate("a state dict instead of a checkpoint", lambda path: torch.save({"weight": torch.ones(1)}, path)),
    evaluate("a checkpoint with pickled code, which is not executed", malicious),
    evaluate("a checkpoint written by a newer version", lambda path: change_checkpoint(path, from_newer_version)),
    evaluate(
        "a checkpoint with a different number of classes",
        lambda path: change_checkpoint(path, other_classes),
    ),
    evaluate("a checkpoint of another backbone", lambda path: change_checkpoint(path, other_backbone)),
    evaluate("evaluation with other classes", lambda path: None, "data=voc", "data.root=."),
    evaluate("evaluation on a missing split", lambda path: None, "split=test"),
    Case("`model.init_from` is not a run", (*OWN, "model.init_from=nowhere"), given=own_data),
    Case(
        "`model.init_from` is a run without a matching tensor",
        (*OWN, "model.init_from=run", "backbone=mobilenet_v3_large", "data.classes=[background,cat,dog]"),
        given=own_data,
    ),
    Case("export of a run without a checkpoint", ("run=nowhere",), script="export"),
    Case("export to another format", ("run=run", "format=tflite"), script="export"),
]

WEIGHTS = [
    Case("no such file", (*OWN, "backbone.weights=nowhere.pth"), given=own_data),
    Case("`backbone.weights=imagnet`", (*OWN, "backbone.weights=imagnet"), given=own_data),
    weights("a file without weights", lambda path: path.write_text("no weights")),
    weights("a file with pickled code, which is not executed", lambda path: torch.save(Malicious(), path)),
    weights("a training checkpoint", lambda path: path.write_bytes((path.parent / SAVED[0]).read_bytes())),
    weights("weights of another network", lambda path: torch.save({"conv1.weight": torch.ones(64, 3, 7, 7)}, path)),
]


def written(name: str, text: str):
    """Return a function that overwrites a file of the run."""
    return lambda folder: (folder / "run" / name).write_text(text)


def interrupted(folder: Path) -> None:
    summary = json.loads((folder / "run" / runs.SUMMARY).read_text())
    (folder / "run" / runs.SUMMARY).write_text(json.dumps({**summary, "status": "interrupted"}))


def changed_data(folder: Path) -> None:
    """Mark the run as interrupted, and change its list of training images."""
    interrupted(folder)
    write_list(own_data(folder), "train", "c", "b")


def held(folder: Path):
    """Lock the run as another process would, as long as the returned file is open."""
    file = open(folder / "run" / runs.LOCK, "w")  # noqa: SIM115 (closed by the caller)
    file.write("process 1234 on node7")
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


RESUMED = [
    Case("no such run", ("resume=nowhere",)),
    Case("a finished run with another learning rate", ("resume=run", "lr=0.5", "allow=[lr]")),
    Case("another batch size", ("resume=run", "batch_size=4")),
    Case("more epochs and a folder without images", ("resume=run", "epochs=2", "allow=[epochs]", "data.root=typo")),
    Case("its best checkpoint", ("resume=run/checkpoints/best.ckpt",)),
    Case("latest without any run", ("resume=latest",)),
    Case("another learning rate", ("resume=run", "lr=0.5")),
    Case("another model", ("resume=run", "model=fcn8s")),
    Case("a preset", ("resume=run", "experiment=d2l")),
    Case("`allow` with an unknown key", ("resume=run", "allow=[lrr]")),
    Case("an empty config.yaml", ("resume=run",), given=written("config.yaml", "")),
    Case("a config.yaml with a duplicate key", ("resume=run",), given=written("config.yaml", "lr: 1\nlr: 2\n")),
    Case("a config.yaml with invalid YAML", ("resume=run",), given=written("config.yaml", "lr: [1\n")),
    Case(
        "a config.yaml written by a newer version",
        ("resume=run",),
        given=lambda folder: (folder / "run/config.yaml").open("a").write("attention: true\n"),
    ),
    Case("a summary.json with invalid JSON", ("resume=run",), given=written("summary.json", "{")),
    Case(
        "all checkpoints damaged",
        ("resume=run",),
        given=lambda folder: [interrupted(folder), *(truncate(folder / name) for name in SAVED)],
    ),
    Case("a run whose images have changed", ("resume=run",), given=changed_data),
    Case("a run that another process is executing", ("resume=run",), given=held),
    Case("`rerun` of an unfinished run", ("rerun=run",), given=interrupted),
    Case("a directory that already holds a run", (*OWN, "hydra.run.dir=run"), given=own_data),
    Case(
        "a file in place of outputs/",
        (*OWN, "name=mine"),
        given=lambda folder: (own_data(folder), (folder / "outputs").touch()),
    ),
]

SECTIONS = {"Checkpoints": CHECKPOINTS, "Weights": WEIGHTS, "Resuming": RESUMED}
