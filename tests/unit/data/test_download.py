"""Downloading and extracting VOC's archive, from a local server."""

import functools
import hashlib
import http.server
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from torchvision.datasets.voc import DATASET_YEAR_DICT

from fcn.data import download as archives
from fcn.errors import DataError


def make_archive(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


LIST = "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of an archive that is already downloaded; nothing listens at its URL."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "root").mkdir()
    path = tmp_path / "root" / "voc.tar"
    make_archive(path, {LIST: b"a\n"})
    publish(path, monkeypatch, url="http://127.0.0.1:9/voc.tar")
    monkeypatch.setattr(archives, "MIRROR", "http://127.0.0.1:9/mirror/voc.tar")
    return path


def publish(path: Path, monkeypatch: pytest.MonkeyPatch, *, url: str) -> None:
    """Register `path` in torchvision's table as the archive at `url`."""
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(DATASET_YEAR_DICT, "2012", {"url": url, "filename": "voc.tar", "md5": md5})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """URL of a local web server for the folder `web`."""
    (tmp_path / "web").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_existing_archive_is_extracted_without_download(archive: Path) -> None:
    archives.download(archive.parent)
    assert (archive.parent / LIST).read_text() == "a\n"
    assert names_in(archive.parent) == ["VOCdevkit", "voc.tar"]
    assert names_in(archive.parent / "VOCdevkit") == ["VOC2012"]


def test_existing_tree_is_not_replaced(archive: Path) -> None:
    list_of = archive.parent / LIST
    list_of.parent.mkdir(parents=True)
    list_of.write_text("mine\n")
    archive.unlink()
    archives.download(archive.parent)
    assert (archive.parent / LIST).read_text() == "mine\n"


def test_damaged_archive_is_downloaded_again(
    archive: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(archive, monkeypatch, url=f"{server}/voc.tar")
    (tmp_path / "web" / "voc.tar").write_bytes(archive.read_bytes())
    archive.write_bytes(archive.read_bytes()[:700])
    archives.download(archive.parent)
    assert (archive.parent / LIST).read_text() == "a\n"


def test_archive_with_wrong_md5_is_not_extracted(
    archive: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(archive, monkeypatch, url=f"{server}/voc.tar")
    archive.unlink()
    make_archive(tmp_path / "web" / "voc.tar", {LIST: b"forged\n"})
    with pytest.raises(DataError, match=r"downloading .*voc\.tar failed from http.*corrupted"):
        archives.download(archive.parent)
    assert not (archive.parent / "VOCdevkit").exists()


@pytest.mark.parametrize("first", ["nothing listens", "a forged archive"])
def test_second_source_is_used_if_the_first_one_fails(
    archive: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    (tmp_path / "web" / "mirror").mkdir()
    archive.rename(tmp_path / "web" / "mirror" / "voc.tar")
    make_archive(tmp_path / "web" / "voc.tar", {LIST: b"forged\n"})
    monkeypatch.setattr(archives, "MIRROR", f"{server}/mirror/voc.tar")
    if first == "a forged archive":
        monkeypatch.setitem(DATASET_YEAR_DICT["2012"], "url", f"{server}/voc.tar")
    archives.download(archive.parent)
    assert (archive.parent / LIST).read_text() == "a\n"


def test_source_that_stalls_has_failed(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.unlink()
    monkeypatch.setattr(archives, "STALLED_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/voc.tar"
        monkeypatch.setitem(DATASET_YEAR_DICT["2012"], "url", url)
        with pytest.raises(DataError, match=rf"failed from {url}: timed out and from http://127.0.0.1:9/mirror"):
            archives.download(archive.parent)
    assert socket.getdefaulttimeout() is None


def test_failed_download_names_the_file_to_copy(archive: Path) -> None:
    archive.unlink()
    with pytest.raises(
        DataError, match=rf"downloading {archive} failed from .* and from .*; check network .* \(md5 [0-9a-f]{{32}}\)"
    ):
        archives.download(archive.parent)


def test_incomplete_tree_is_an_error(archive: Path) -> None:
    (archive.parent / "VOCdevkit" / "VOC2012" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(DataError, match=r"VOC2012 must contain .*; move the incomplete tree away"):
        archives.download(archive.parent)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError("No space left on device")])
def test_interrupted_extraction_leaves_nothing_and_can_be_repeated(archive: Path, interruption: BaseException) -> None:
    def interrupt_extraction(self: tarfile.TarFile, path: Path, **_: object) -> None:
        (path / LIST).parent.mkdir(parents=True)
        raise interruption

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", interrupt_extraction)
        with pytest.raises((KeyboardInterrupt, DataError), match=r"^$|extracting .*No space left .*; make room"):
            archives.download(archive.parent)
    assert not (archive.parent / "VOCdevkit").exists()
    archives.download(archive.parent)
    assert (archive.parent / LIST).is_file()


def test_archive_member_cannot_leave_the_folder(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_archive(archive, {LIST: b"a\n", "../../evil.txt": b"x"})
    publish(archive, monkeypatch, url="http://127.0.0.1:9/voc.tar")
    with pytest.raises(DataError, match=r"extracting .*evil\.txt"):
        archives.download(archive.parent)
    assert not list(archive.parent.parent.rglob("evil.txt"))
    assert not (archive.parent / "VOCdevkit" / "VOC2012").exists()


def test_python_without_safe_extraction_is_an_error(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("tarfile.data_filter")
    with pytest.raises(DataError, match=r"needs Python 3\.10\.12.*; update Python, or extract the archive by hand"):
        archives.download(archive.parent)
