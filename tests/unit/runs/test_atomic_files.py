"""Files and folders that appear complete or not at all."""

import contextlib
import errno
import os
import stat

import pytest

from fcn import runs
from fcn.runs.atomic_files import new_folder, replacing, replacing_files, sha256_of


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("write", [lambda path: runs.write_text(path, "new"), lambda path: runs.copy_file(path, path)])
def test_failed_write_leaves_the_old_file_only(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left") as error:
        write(path)
    assert error.value.filename == str(path)
    assert names_in(tmp_path) == ["file"]
    assert path.read_text() == "old"


def test_copy_is_independent_of_its_source(tmp_path):
    runs.write_text(tmp_path / "best", "first")
    runs.copy_file(tmp_path / "best", tmp_path / "last")
    runs.write_text(tmp_path / "best", "second")
    assert (tmp_path / "last").read_text() == "first"


def test_new_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "parent" / "folder"
    with new_folder(target, part="inner") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("text")
        assert not target.exists()
    assert names_in(tmp_path / "parent") == ["folder"]
    assert (target / "file").read_text() == "text"
    (tmp_path / "ordinary").mkdir()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


def test_new_folder_keeps_that_of_another_process(tmp_path):
    with new_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("ours")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").write_text("theirs")
    assert names_in(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "file").read_text() == "theirs"


def test_replacing_files_replaces_files_of_the_same_name(tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "both").write_text("old")
    with replacing_files(tmp_path) as temporary:
        (temporary / "both").write_text("new")
        assert (tmp_path / "both").read_text() == "old"
    assert (names_in(tmp_path), (tmp_path / "both").read_text()) == (["both", "old"], "new")


@pytest.mark.parametrize("build", [replacing, replacing_files, new_folder])
def test_nothing_changes_after_an_exception(tmp_path, build):
    (tmp_path / "file").write_text("old")
    target = {replacing: tmp_path / "file", replacing_files: tmp_path, new_folder: tmp_path / "parent" / "new"}[build]
    with contextlib.suppress(KeyboardInterrupt), build(target) as temporary:
        (temporary / "file" if temporary.is_dir() else temporary).write_text("new")
        raise KeyboardInterrupt
    assert (names_in(tmp_path), (tmp_path / "file").read_text()) == (["file"], "old")


def test_hash_follows_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert sha256_of(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
