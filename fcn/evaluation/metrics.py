"""The four scores of Long et al. 2015, section 5, from one confusion matrix over the whole set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fcn.config import IGNORE_INDEX
from fcn.evaluation.scores import class_counts

NUM_TARGETS = 256
"""Values that a mask of uint8 can hold: classes, void, and what the dataset refuses to read."""

NUM_LANES = 64
"""Copies of the counters on a GPU: at least the 32 threads of a warp, so that no two of them meet in one."""


class SegmentationMetrics(Metric):
    """Loss and scores of a set of images, counted per batch and divided once.

    The states are sums, so that neither the order, nor the batches, nor the number of processes changes a
    score. Their dtypes stay int64 and float64 whatever the precision of the module that holds the metric,
    and they are not in its `state_dict`: weights are published without them. To stop and go on inside an
    epoch, use `state` and `load_state`.

    Attributes:
        confusion: int64 [C, C], pixels per class of the target (row) and of the prediction (column).
        loss_sum: float64 scalar, sum of the numerators.
        loss_divisor: float64 scalar, sum of the divisors.
    """

    full_state_update = False
    confusion: Tensor
    loss_sum: Tensor
    loss_divisor: Tensor

    def __init__(self, num_classes: int) -> None:
        """Start with nothing counted.

        Args:
            num_classes: number of classes C, at most 255.
        """
        super().__init__()
        assert 1 <= num_classes <= IGNORE_INDEX, "the row of void must lie outside the matrix"
        self.num_classes = num_classes
        counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", counts, dist_reduce_fx="sum")
        self.add_state("loss_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("loss_divisor", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, *, loss: tuple[Tensor, Tensor] | None = None) -> None:
        """Count a batch, or one image.

        Args:
            prediction: integer [N, H, W] or [H, W], classes in [0, C): the argmax over the class axis.
            target: uint8 of the same shape, classes in [0, C) or 255 for void.
            loss: numerator and divisor of the batch, as `fcn.training.losses.cross_entropy` gives them.

        Raises:
            ValueError: if the shapes differ.
        """
        # Out of place: ranks that are started by spawn or fork share the memory of a state, and a state
        # that is made in inference mode cannot be changed in place outside of it.
        self.confusion = self.confusion + confusion_matrix(prediction, target, num_classes=self.num_classes)
        if loss is not None:
            numerator, divisor = loss
            self.loss_sum = self.loss_sum + numerator.double()
            self.loss_divisor = self.loss_divisor + divisor.double()

    def compute(self) -> dict[str, float]:
        """Scores of everything counted so far, over all processes.

        Returns:
            `loss` and the keys of `segmentation_scores`. What nothing was counted for (a set that is all void, a loss
            that was never given) is NaN: there is no score, and 0 would be read as a bad one.
        """
        return {"loss": (self.loss_sum / self.loss_divisor).item(), **segmentation_scores(self.confusion)}

    def state(self) -> dict[str, Tensor]:
        """Copy of this process's counts on the CPU, to go on from with `load_state`."""
        return {name: value.to("cpu", copy=True) for name, value in self._sums().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace the counts by those of `state`.

        Raises:
            ValueError: if `state` is not of this metric or of another number of classes.
        """
        sums = self._sums()
        expected = {name: tuple(value.shape) for name, value in sums.items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        if given != expected:
            raise ValueError(
                f"state (={given}) must have the shapes {expected}; "
                f"use the state of a metric with num_classes={self.num_classes}"
            )
        self.reset()
        for name, value in state.items():
            setattr(self, name, value.to(sums[name], copy=True))
        # torchmetrics warns at compute where it has seen no update, and these counts come from updates.
        self._update_count = 1

    def _sums(self) -> dict[str, Tensor]:
        return {"confusion": self.confusion, "loss_sum": self.loss_sum, "loss_divisor": self.loss_divisor}

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Follow the module to another device, but not to another dtype.

        torchmetrics guards `half()` and its like, but not `to(dtype)`, by which Lightning makes a module half
        precise: a loss_sum in float16 ends at 65504.
        """
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), exclude_state)


def predicted_classes(logits: Tensor) -> Tensor:
    """The class of highest score at every pixel, int64 [N, H, W]; of equal scores the first.

    Args:
        logits: [N, C, H, W].
    """
    return logits.max(dim=1).indices  # `argmax` gives the same, and takes twice as long on a CPU


def confusion_matrix(prediction: Tensor, target: Tensor, *, num_classes: int) -> Tensor:
    """Non-void pixels per class of the target (row) and of the prediction (column), int64 [C, C].

    torchmetrics' function gives the same numbers about 10 times as slowly on a CPU (it filters the void
    pixels out first, in int64), waits for a GPU, and under deterministic algorithms takes memory for pixels
    x C x C. Here void has a row of its own, which is cut off.

    Args:
        prediction: integer [...], classes in [0, C). Not checked: that would make every step wait for a GPU.
        target: uint8 [...], classes in [0, C); 255, and any other value, counts nowhere.
        num_classes: number of classes C.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction.shape (={tuple(prediction.shape)}) must equal target.shape "
            f"(={tuple(target.shape)}); give classes, the argmax over the class axis of the logits"
        )
    cells = target.flatten().int() * num_classes + prediction.flatten().int()
    counts = _count(cells, num_cells=NUM_TARGETS * num_classes)
    return counts[: num_classes**2].view(num_classes, num_classes)


def _count(cells: Tensor, *, num_cells: int) -> Tensor:
    if cells.device.type == "cpu":
        return torch.bincount(cells, minlength=num_cells)
    return _count_in_lanes(cells, num_cells=num_cells)


def _count_in_lanes(cells: Tensor, *, num_cells: int) -> Tensor:
    """How often each of 0 ... num_cells - 1 occurs, int64 [num_cells], without waiting for the device.

    On a GPU `torch.bincount` reads the smallest and the largest value back to the host, so that the next step
    could not be queued before this one has ended. Most pixels are background: without the lanes all their
    additions would wait for one counter.
    """
    lanes = torch.arange(cells.numel(), device=cells.device).remainder_(NUM_LANES)
    index = lanes.mul_(num_cells).add_(cells)
    one = torch.ones((), dtype=torch.int64, device=cells.device)
    counts = torch.zeros(NUM_LANES * num_cells, dtype=torch.int64, device=cells.device)
    return counts.scatter_add_(0, index, one.expand_as(index)).view(NUM_LANES, num_cells).sum(dim=0)


def segmentation_scores(confusion: Tensor) -> dict[str, float]:
    """Return pixel accuracy, mean accuracy, mean IoU and frequency-weighted IoU, fractions of 1 in float64.

    With n_ij the pixels of class i predicted as j and t_i = sum_j n_ij (Long et al. 2015, section 5):

    - pixel_accuracy: sum_i n_ii / sum_i t_i
    - mean_accuracy: mean of n_ii / t_i over the classes that occur in the target
    - mean_iou: mean of the IoU over the classes that occur in target or prediction
    - fw_iou: mean of the IoU weighted by t_i

    The paper divides both means by the number of classes, which is equivalent if every class occurs, as in VOC's val.

    Args:
        confusion: int64 [C, C], rows are the target. All zeros give NaN throughout.
    """
    counts = confusion.detach().cpu().double()
    in_target, total = counts.sum(dim=1), counts.sum()
    occurs = in_target > 0
    iou = torch.from_numpy(class_counts(confusion.detach().cpu().numpy()).iou())
    return {
        "pixel_accuracy": (counts.diagonal().sum() / total).item(),
        "mean_accuracy": (counts.diagonal()[occurs] / in_target[occurs]).mean().item(),
        "mean_iou": iou.nanmean().item(),
        "fw_iou": ((in_target * iou)[occurs].sum() / total).item(),
    }
