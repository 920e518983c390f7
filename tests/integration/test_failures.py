"""A run that fails says why in one line and leaves what it had."""

from tests.commands import TINY
from tests.voc_tree import shapes_as_voc, truncate


def test_an_error_in_a_loader_process_is_told_and_ends_the_command(command):
    """The process that made the crops waits for nobody: multiprocessing tells it to end, and joins it."""
    tree, data = shapes_as_voc(command.folder / "voc")
    name = (tree / "ImageSets/Segmentation/val.txt").read_text().split()[1]
    truncate(tree / f"SegmentationClass/{name}.png")
    done = command(*TINY, *data, "epochs=1", "name=broken", "trainer=cpu", "data.num_workers=1")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"{name}.png must be a readable image" in line
