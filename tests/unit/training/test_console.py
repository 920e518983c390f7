"""The log of a run is the run's only while it runs."""

import logging

from fcn.training.console import logging_to


def test_after_a_run_whoever_listens_hears_the_package_again(tmp_path, caplog):
    log = logging.getLogger("fcn.anything")
    with logging_to(tmp_path / "train.log"):
        log.warning("within")
    log.warning("after")
    assert [record.message for record in caplog.records] == ["after"]
    assert "within" in (tmp_path / "train.log").read_text()
    assert "after" not in (tmp_path / "train.log").read_text()
