"""Confusion matrix over the whole set, and the four scores of Long et al. 2015, section 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fcn.config import IGNORE_INDEX
from fcn.evaluation.scores import class_counts

NUM_TARGETS = 256
"""Number of values of a uint8 mask: classes, void, and values that the dataset refuses to read."""

NUM_LANES = 64
"""Copies of the counters on a GPU: more than the 32 threads of a warp, so that no two of them share a counter."""


class SegmentationMetrics(Metric):
    """Loss and scores of a set of images, counted per batch and divided once.

    The states are sums, so that a score depends neither on order, nor on batches, nor on the number of processes. They
    remain int64 and float64 for any precision of the module that contains the metric. They are not part of its
    `state_dict`; to resume inside an epoch, use `state` and `load_state`.

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
        """Initialise all counts to zero.

        Args:
            num_classes: number of classes C, at most 255.
        """
        super().__init__()
        assert 1 <= num_classes <= IGNORE_INDEX, "the row of void must be outside the matrix"
        self.num_classes = num_classes
        counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", counts, dist_reduce_fx="sum")
        self.add_state("loss_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("loss_divisor", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, *, loss: tuple[Tensor, Tensor] | None = None) -> None:
        """Count a batch or one image.

        Args:
            prediction: integer [N, H, W] or [H, W], classes in [0, C): the argmax over the class axis.
            target: uint8 of the same shape, classes in [0, C) or 255 for void.
            loss: numerator and divisor of the loss of the batch.

        Raises:
            ValueError: if the shapes differ.
        """
        # Out of place: spawned or forked ranks share the memory of a state, and a state created in inference mode
        # cannot be changed in place outside of it.
        self.confusion = self.confusion + confusion_matrix(prediction, target, num_classes=self.num_classes)
        if loss is not None:
            numerator, divisor = loss
            self.loss_sum = self.loss_sum + numerator.double()
            self.loss_divisor = self.loss_divisor + divisor.double()

    def compute(self) -> dict[str, float]:
        """Return the scores of everything counted so far, over all processes.

        Returns:
            `loss` and the keys of `segmentation_scores`. A score without counts is NaN, as for a set that is all void.
        """
        return {"loss": (self.loss_sum / self.loss_divisor).item(), **segmentation_scores(self.confusion)}

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the counts of this process on the CPU, for `load_state`."""
        return {name: value.to("cpu", copy=True) for name, value in self._sums().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace the counts with those of `state`.

        Raises:
            ValueError: if the shapes of `state` differ, as with another number of classes.
        """
        sums = self._sums()
        expected = {name: tuple(value.shape) for name, value in sums.items()}
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        if shapes != expected:
            raise ValueError(
                f"state (={shapes}) must have the shapes {expected}; "
                f"use the state of a metric with num_classes={self.num_classes}"
            )
        self.reset()
        for name, value in state.items():
            setattr(self, name, value.to(sums[name], copy=True))
        # Without it torchmetrics warns that `compute` was called before `update`.
        self._update_count = 1

    def _sums(self) -> dict[str, Tensor]:
        return {"confusion": self.confusion, "loss_sum": self.loss_sum, "loss_divisor": self.loss_divisor}

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Move the counts with the module to another device, but keep their dtypes.

        torchmetrics ignores `half()` and the like, but not `to(dtype)`, which Lightning uses for half precision; a
        loss_sum in float16 would overflow at 65504.
        """
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), exclude_state)


def confusion_matrix(prediction: Tensor, target: Tensor, *, num_classes: int) -> Tensor:
    """Return the number of non-void pixels per class of target (row) and prediction (column), int64 [C, C].

    The equivalent function of torchmetrics is about 10 times slower on a CPU (it first filters void pixels, in int64),
    synchronises with a GPU, and with deterministic algorithms allocates pixels x C x C. Here void has its own rows,
    which are dropped.

    Args:
        prediction: integer [...], classes in [0, C). Not checked, because a check would wait for the GPU at every step.
        target: uint8 [...], classes in [0, C); 255 and any other value are not counted.
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
    counts = count_cells(cells, num_cells=NUM_TARGETS * num_classes)
    return counts[: num_classes**2].view(num_classes, num_classes)


def count_cells(cells: Tensor, *, num_cells: int) -> Tensor:
    """Return how often each of 0 ... num_cells - 1 occurs, int64 [num_cells]."""
    if cells.device.type == "cpu":
        return torch.bincount(cells, minlength=num_cells)
    return _count_in_lanes(cells, num_cells=num_cells)


def _count_in_lanes(cells: Tensor, *, num_cells: int) -> Tensor:
    """Count as `torch.bincount`, without synchronising with a GPU.

    On a GPU `torch.bincount` reads the smallest and the largest value on the host, so that the next step could not be
    queued before this one has finished. Several lanes of counters, because most pixels are background and would
    otherwise contend for one counter.
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


def named_scores(prefix: str, confusion: Tensor, loss: float, classes: list[str]) -> dict[str, float]:
    """Return the scores under a prefix of metric names, such as `val/mean_iou` and `val/iou/<class>`."""
    values = segmentation_scores(confusion)
    if prefix.startswith("d2l/"):
        return {f"{prefix}loss": loss, f"{prefix}acc": values["pixel_accuracy"]}
    if prefix == "train/":
        return {"train/loss": loss, "train/pixel_accuracy": values["pixel_accuracy"]}
    ious = zip(classes, class_counts(confusion.numpy()).iou().tolist(), strict=True)
    per_class = {f"val/iou/{name}": iou for name, iou in ious}
    return {"val/loss": loss, **{f"val/{key}": value for key, value in values.items()}, **per_class}
