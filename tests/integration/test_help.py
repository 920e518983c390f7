"""`--help` of every command lists its keys, exits with status 0, writes no file and imports no heavy library."""

import json
import subprocess
import sys

import pytest

from fcn import config as configuration
from tests.commands import ROOT, load_command

HEAVY = {"torch", "pytorch_lightning", "torchvision", "matplotlib", "optuna", "onnx"}
# Runs a script as `python SCRIPT --help` does, then prints the imported packages as the last line.
RUN = """
import atexit, json, runpy, sys
atexit.register(lambda: print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules}))))
sys.argv = [sys.argv[1], "--help"]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# By command: its configuration, or None for an argument parser; parts of its help that are not keys.
COMMANDS = {
    "train": (
        "Config",
        [
            "python train.py model.init=xavier lr=0.01",
            "backbone: convnext_tiny, efficientnet_lite0, mobilenet_v3_large, resnet101,",
            "model: conv_head, fcn16s, fcn32s, fcn8s, linear_head, smp, torchvision",
            "experiment: d2l, fcn16s_vgg16,",
            "--cfg job shows the composed configuration",
        ],
    ),
    "evaluate": ("EvaluateConfig", []),
    "predict": ("PredictConfig", ["EXIF"]),
    "export": ("ExportConfig", []),
    "prepare_voc": ("PrepareConfig", []),
    "tune": ("TuneConfig", ["search: d2l, default, init"]),
    "upsample": ("UpsampleConfig", []),
    "compare": (None, []),
    "benchmark": (None, [f"\n{name} " for name in ("step", "overhead", "data")]),
}


def meanings(command: str, config: str | None) -> dict[str, str]:
    """Return what every key of a command means, from its schema or argument parser."""
    module = load_command(command)
    if config is None:
        options = [action for action in getattr(module, f"{command}_parser")()._actions if action.option_strings]
        return {action.option_strings[-1]: action.help % vars(action) for action in options}
    fields = configuration.schema_fields(getattr(module, config), {})  # of the default options
    return {key: field.metadata["meaning"] for key, field in fields.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_key_writes_nothing_and_imports_no_torch(command, tmp_path):
    config, parts = COMMANDS[command]
    script = ROOT / ("train.py" if command == "train" else f"scripts/{command}.py")
    line = [sys.executable, "-c", RUN, str(script)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    help_text, _, modules = done.stdout.rstrip("\n").rpartition("\n")
    words = " ".join(help_text.split())
    for key, meaning in meanings(command, config).items():
        assert f" {key}" in words
        assert " ".join(meaning.split()) in words, key
    assert all(part in help_text for part in parts)
    assert not HEAVY & set(json.loads(modules))
    assert ("hydra" in json.loads(modules)) is (config is not None)
    assert not list(tmp_path.iterdir())
