"""A key of type text holds the text that was written, on the command line, in a preset and in config.yaml."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import _utils

import fcn
from fcn import runs
from fcn.config import Config
from fcn.config.overrides import parse_overrides
from fcn.config.written_text import quote_texts, text_names, yaml_loader
from tests.commands import load_command, type_in

LOOKS_LIKE_A_NUMBER = st.one_of(
    st.from_regex(r"[0-9][0-9_]{0,6}(\.[0-9]{0,4})?(e[0-9])?", fullmatch=True),
    st.sampled_from(["true", "True", "FALSE", "nan", "inf", "1e3", "1_8", "1.10", "007", "0x10", "1:30", "0b1"]),
)


def loaded(text: str):
    return yaml.load(text, Loader=yaml_loader(text_names(Config), _utils.get_yaml_loader()))


@given(LOOKS_LIKE_A_NUMBER)
def test_text_of_an_override(text):
    single, several = parse_overrides(quote_texts([f"data.root={text}", f"data.classes=[a,{text}]"], Config))
    assert str(single.value()) == text
    assert list(map(str, several.value())) == ["a", text]


@given(LOOKS_LIKE_A_NUMBER)
def test_text_of_every_job_of_a_sweep(text):
    (sweep,) = parse_overrides(quote_texts([f"name={text},b"], Config))
    jobs = parse_overrides([f"name={value}" for value in sweep.sweep_string_iterator()])
    assert [str(job.value()) for job in jobs] == [text, "b"]


@given(LOOKS_LIKE_A_NUMBER)
def test_text_in_yaml(text):
    values = loaded(f"name: {text}\ndata: {{classes: [a, {text}]}}\nother: {text}\n")
    assert values["name"] == text
    assert values["data"]["classes"] == ["a", text]
    assert values["other"] == yaml.load(f"x: {text}", Loader=_utils.get_yaml_loader())["x"]


@pytest.mark.parametrize("override", ["lr=1e3", "epochs=1_0", "compile=true", "data.crop_size=[1_28,96]", "lr=a b("])
def test_other_keys_and_invalid_overrides_are_unchanged(override):
    assert quote_texts([override], Config) == [override]


def test_parameters_of_a_sweeper_in_yaml():
    params = loaded("sweeper: {params: {name: '1_8,1_9', data.root: 1.10, lr: '1e3,1e4', seed: 1}}")["sweeper"][
        "params"
    ]
    assert params == {"name": "'1_8','1_9'", "data.root": "'1.10'", "lr": "1e3,1e4", "seed": 1}


def test_composed_and_read_back(tmp_path):
    config = fcn.compose("name=2024_05_01", "data=voc", "data.classes=[background,1_2,1e3,true]", "data.root=1.10")
    assert (config.name, config.data.root) == ("2024_05_01", "1.10")
    assert config.data.classes == ["background", "1_2", "1e3", "true"]
    runs.create(tmp_path / "run", config)
    assert runs.load_config(tmp_path / "run") == config


def test_edited_config_yaml(tmp_path):
    runs.create(tmp_path / "run", fcn.compose("name=x"))
    path = tmp_path / "run" / runs.CONFIG
    path.write_text(path.read_text().replace("name: x\n", "name: 1_8\n"))
    assert runs.load_config(tmp_path / "run").name == "1_8"


def test_preset_with_a_name_like_a_number(tmp_path, monkeypatch, capsys):
    preset = tmp_path / "experiment" / "1_0.yaml"
    preset.parent.mkdir()
    preset.write_text("# @package _global_\nname: 1_8\ndata:\n  root: 1.10\n")
    arguments = ("--config-dir", str(tmp_path), "experiment=1_0", "--cfg", "job")
    status, out, err = type_in(monkeypatch, capsys, *arguments, script=load_command("train"))
    assert (status, err) == (0, "")
    composed = yaml.safe_load(out)
    assert (composed["name"], composed["data"]["root"]) == ("1_8", "1.10")
