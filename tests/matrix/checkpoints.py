"""Checkpoints, runs and files of weights that are not as they must be."""

import fcntl
import json
from pathlib import Path

import torch

from fcn import runs
from tests.matrix.case import OWN, Case, Malicious, change_checkpoint, own_data
from tests.voc_tree import truncate, write_list

SAVED = ("run/checkpoints/best.ckpt", "run/checkpoints/last.ckpt")


def evaluate(what: str, spoil, *typed: str) -> Case:
    """scripts/evaluate.py on the run, after `spoil` had its checkpoints."""

    def given(folder: Path) -> None:
        own_data(folder)
        for name in SAVED:
            spoil(folder / name)

    return Case(what, ("run=run", *typed), script="evaluate", given=given)


def weights(what: str, make) -> Case:
    """A run that begins with the state dict that `make` writes."""

    def given(folder: Path) -> None:
        own_data(folder)
        make(folder / "weights.pth")

    return Case(what, (*OWN, "backbone.weights=weights.pth"), given=given)


def other_classes(content: dict) -> None:
    content["config"]["data"]["classes"] = ["background", "cat", "dog"]


def other_trunk(content: dict) -> None:
    content["config"]["backbone"]["name"] = "resnet18"


def from_newer_version(content: dict) -> None:
    content["config"]["model"]["attention"] = "cross"


def malicious(path: Path) -> None:
    torch.save({"config": {}, "state_dict": Malicious()}, path)


CHECKPOINTS = [
    Case("no such run", ("run=nowhere",), script="evaluate"),
    Case("no run named", (), script="evaluate"),
    Case("an empty name of a run, as of a variable that is not set", ("run=",), script="evaluate"),
    Case("a folder that is no run", ("run=VOCdevkit",), script="evaluate", given=own_data),
    evaluate("a run without a checkpoint", Path.unlink),
    evaluate("a truncated checkpoint", truncate),
    evaluate("a checkpoint of zero bytes", lambda path: truncate(path, 0)),
    evaluate("a text file for a checkpoint", lambda path: path.write_text("no checkpoint")),
    evaluate("a state dict for a checkpoint", lambda path: torch.save({"weight": torch.ones(1)}, path)),
    evaluate("a checkpoint with pickled code inside, which is not executed", malicious),
    evaluate("a checkpoint of a newer version", lambda path: change_checkpoint(path, from_newer_version)),
    evaluate(
        "a checkpoint whose weights are of another number of classes",
        lambda path: change_checkpoint(path, other_classes),
    ),
    evaluate("a checkpoint whose weights are of another trunk", lambda path: change_checkpoint(path, other_trunk)),
    evaluate("evaluation with other classes", lambda path: None, "data=voc", "data.root=."),
    evaluate("evaluation on a split that is not there", lambda path: None, "split=test"),
    Case("`model.init_from` of what is no run", (*OWN, "model.init_from=nowhere"), given=own_data),
    Case(
        "`model.init_from` of a run of which nothing fits",
        (*OWN, "model.init_from=run", "backbone=mobilenet_v3_large", "data.classes=[background,cat,dog]"),
        given=own_data,
    ),
    Case("export of a run without a checkpoint", ("run=nowhere",), script="export"),
    Case("export to another format", ("run=run", "format=tflite"), script="export"),
]

WEIGHTS = [
    Case("no such file", (*OWN, "backbone.weights=nowhere.pth"), given=own_data),
    Case("`backbone.weights=imagnet`", (*OWN, "backbone.weights=imagnet"), given=own_data),
    weights("a file of something else", lambda path: path.write_text("no weights")),
    weights("a file with pickled code inside, which is not executed", lambda path: torch.save(Malicious(), path)),
    weights("a training checkpoint", lambda path: path.write_bytes((path.parent / SAVED[0]).read_bytes())),
    weights("weights of another network", lambda path: torch.save({"conv1.weight": torch.ones(64, 3, 7, 7)}, path)),
]


def written(name: str, text: str):
    """The run with another file."""
    return lambda folder: (folder / "run" / name).write_text(text)


def interrupted(folder: Path) -> None:
    summary = json.loads((folder / "run" / runs.SUMMARY).read_text())
    (folder / "run" / runs.SUMMARY).write_text(json.dumps({**summary, "status": "interrupted"}))


def changed_data(folder: Path) -> None:
    """The run is to go on; the list of its training images is another one now."""
    interrupted(folder)
    write_list(own_data(folder), "train", "c", "b")


def held(folder: Path):
    """Another process holds the run's lock, as long as the file is open."""
    file = open(folder / "run" / runs.LOCK, "w")  # noqa: SIM115 (the caller holds it)
    file.write("process 1234 on node7")
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


RESUMED = [
    Case("no such run", ("resume=nowhere",)),
    Case("a finished run with another learning rate", ("resume=run", "lr=0.5", "allow=[lr]")),
    Case("another batch size", ("resume=run", "batch_size=4")),
    Case("another learning rate", ("resume=run", "lr=0.5")),
    Case("another model", ("resume=run", "model=fcn8s")),
    Case("a preset", ("resume=run", "experiment=d2l")),
    Case("`allow` of what is no key", ("resume=run", "allow=[lrr]")),
    Case("an empty config.yaml", ("resume=run",), given=written("config.yaml", "")),
    Case("a config.yaml with a key twice", ("resume=run",), given=written("config.yaml", "lr: 1\nlr: 2\n")),
    Case("a config.yaml that is no YAML", ("resume=run",), given=written("config.yaml", "lr: [1\n")),
    Case(
        "a config.yaml of a newer version",
        ("resume=run",),
        given=lambda folder: (folder / "run/config.yaml").open("a").write("attention: true\n"),
    ),
    Case("a summary.json that is no JSON", ("resume=run",), given=written("summary.json", "{")),
    Case(
        "all checkpoints damaged",
        ("resume=run",),
        given=lambda folder: [interrupted(folder), *(truncate(folder / name) for name in SAVED)],
    ),
    Case("a run whose data have changed", ("resume=run",), given=changed_data),
    Case("a run that another process executes", ("resume=run",), given=held),
    Case("a repetition of a run that is not finished", ("rerun=run",), given=interrupted),
    Case("a new run where there is one", (*OWN, "hydra.run.dir=run"), given=own_data),
    Case(
        "a file where runs are to be",
        (*OWN, "name=mine"),
        given=lambda folder: (own_data(folder), (folder / "outputs").touch()),
    ),
]

SECTIONS = {"Checkpoints": CHECKPOINTS, "Weights": WEIGHTS, "Runs that go on": RESUMED}
