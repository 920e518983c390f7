"""loggers.json."""

import pytest

from fcn.runs.logger_ids import read_logger_id, save_logger_id


def test_ids_are_read_back(tmp_path):
    assert read_logger_id(tmp_path, "wandb") is None
    save_logger_id(tmp_path, "wandb", "abc")
    save_logger_id(tmp_path, "mlflow", "12")
    assert [read_logger_id(tmp_path, name) for name in ("wandb", "mlflow", "other")] == ["abc", "12", None]


def test_file_that_is_not_json_is_an_error(tmp_path):
    (tmp_path / "loggers.json").write_text("{")
    with pytest.raises(ValueError, match="property name"):
        read_logger_id(tmp_path, "wandb")
