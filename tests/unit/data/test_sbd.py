"""Conversion of SBD to SegmentationClassAug and its lists, from an archive where the download puts it."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import SBDataset

from fcn.data import sbd
from fcn.data.palette import color_map
from fcn.data.split_lists import read_split
from fcn.errors import ConfigError, DataError
from tests.voc_tree import make_voc_tree

savemat = pytest.importorskip("scipy.io").savemat

# VOC: train has a and b, val has c and d. SBD annotates a, c and e in train, and f in val; d and b are only in VOC.
VOC_MASKS = {name: np.full((3, 4), number, np.uint8) for number, name in enumerate("abcd", 1)}
SBD_MASKS = {name: np.full((3, 4), number, np.uint8) for number, name in enumerate("acef", 11)}
LISTS = {"train": "c\na\ne\n", "val": "f\n"}


def mat_file(mask: np.ndarray) -> bytes:
    """Return a MATLAB file with the fields of SBD's annotations."""
    boundaries = np.empty((20, 1), object)
    boundaries[:] = [[np.zeros_like(mask)]]
    buffer = io.BytesIO()
    record = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": np.unique(mask[mask > 0])}
    savemat(buffer, {"GTcls": record})
    return buffer.getvalue()


def write_archive(path: Path) -> None:
    files = {f"dataset/{split}.txt": text.encode() for split, text in LISTS.items()}
    files |= {f"dataset/cls/{name}.mat": mat_file(mask) for name, mask in SBD_MASKS.items()}
    files |= {"dataset/img/a.jpg": b"unused", "dataset/inst/a.mat": b"unused", "README.txt": b"unused", "cls": b""}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"benchmark_RELEASE/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A VOC tree with all images, and SBD's archive beside it; nothing listens at SBD's URL."""
    monkeypatch.setenv("no_proxy", "*")
    make_voc_tree(tmp_path, VOC_MASKS | SBD_MASKS | VOC_MASKS, {"train": "ab", "val": "cd"})
    for name in "ef":  # VOC has their images only
        (tmp_path / "VOCdevkit/VOC2012/SegmentationClass" / f"{name}.png").unlink()
    write_archive(tmp_path / SBDataset.filename)
    md5 = hashlib.md5((tmp_path / SBDataset.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(SBDataset, "md5", md5)
    monkeypatch.setattr(SBDataset, "url", "http://127.0.0.1:9/benchmark.tgz")
    return tmp_path


def names_of(root: Path, split: str) -> list[str]:
    return (root / "VOCdevkit/VOC2012/ImageSets/Segmentation" / f"{split}.txt").read_text().split()


def test_lists_are_those_of_the_publications(root: Path) -> None:
    assert sbd.add_sbd(root) == {"train_aug": 4, "sbd_train": 3}
    assert names_of(root, "train_aug") == ["a", "b", "e", "f"]  # SBD and VOC's train, without VOC's val
    assert names_of(root, "sbd_train") == ["c", "a", "e"]


def test_masks_are_those_of_voc_where_it_has_one(root: Path) -> None:
    sbd.add_sbd(root)
    folder = root / "VOCdevkit/VOC2012/SegmentationClassAug"
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.png" for name in "abcdef"]
    for name, mask in (SBD_MASKS | VOC_MASKS).items():
        image = Image.open(folder / f"{name}.png")
        assert image.mode == "P"
        np.testing.assert_array_equal(image, mask)
    np.testing.assert_array_equal(np.reshape(Image.open(folder / "e.png").getpalette(), (-1, 3)), color_map())
    assert [pair.mask.parent.name for pair in read_split(root, "train_aug")] == ["SegmentationClassAug"] * 4


def test_masks_are_read_as_by_torchvision(root: Path) -> None:
    sbd.add_sbd(root)
    with tarfile.open(root / SBDataset.filename) as tar:
        tar.extractall(root, filter="data")
    reference = SBDataset(root / "benchmark_RELEASE" / "dataset", image_set="val", mode="segmentation")
    # torchvision opens the image too, which this archive does not contain.
    expected = reference._get_target(reference.masks[0])
    np.testing.assert_array_equal(Image.open(root / "VOCdevkit/VOC2012/SegmentationClassAug/f.png"), expected)


def test_existing_masks_and_lists_are_kept(root: Path) -> None:
    tree = root / "VOCdevkit/VOC2012"
    (tree / "SegmentationClassAug").mkdir()
    (tree / "ImageSets/Segmentation/train_aug.txt").write_text("mine\n")
    assert sbd.add_sbd(root) == {"sbd_train": 3}
    assert names_of(root, "train_aug") == ["mine"]
    assert not list((tree / "SegmentationClassAug").iterdir())
    (root / SBDataset.filename).unlink()
    assert sbd.add_sbd(root) == {}  # nothing is missing, so nothing is downloaded


def test_interrupted_conversion_leaves_nothing_and_can_be_repeated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(DataError, match=r"converting .*benchmark\.tgz .* No space left on device; make room for"):
            sbd.add_sbd(root)
    tree = root / "VOCdevkit/VOC2012"
    assert sorted(path.name for path in tree.iterdir()) == ["ImageSets", "JPEGImages", "SegmentationClass"]
    assert sbd.add_sbd(root) == {"train_aug": 4, "sbd_train": 3}


def test_failed_download_names_the_file_to_copy(root: Path) -> None:
    (root / SBDataset.filename).write_bytes(b"truncated")
    with pytest.raises(
        DataError, match=rf"downloading .*benchmark\.tgz failed from http://127\..* \(md5 {SBDataset.md5}\)"
    ):
        sbd.add_sbd(root)


def test_missing_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'sbd \(=true\) needs SciPy; use pip install -e "\.\[sbd\]"'):
        sbd.require_scipy()
