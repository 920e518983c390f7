"""A run that fails says why in one line and leaves what it had."""

from fcn.data import shapes
from tests.commands import TINY


def test_an_error_in_a_loader_process_is_told_and_ends_the_command(command):
    """The process that made the crops waits for nobody: multiprocessing tells it to end, and joins it."""
    drawn = shapes.ensure_shapes(command.folder / "voc", num_train=16, num_val=5, seed=0)
    name = (drawn / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").read_text().split()[1]
    mask = drawn / f"VOCdevkit/VOC2012/SegmentationClass/{name}.png"
    mask.write_bytes(mask.read_bytes()[:60])
    data = ["data=voc", f"data.root={drawn}", f"data.classes=[{','.join(shapes.CLASSES)}]", "data.cache=false"]
    done = command(*TINY, *data, "epochs=1", "name=broken", "trainer=cpu", "data.num_workers=1")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"{name}.png must be a readable image" in line
