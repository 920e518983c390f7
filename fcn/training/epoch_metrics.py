"""Metrics of an epoch: counts of training and validation, summed over all processes once per epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fcn.evaluation.metrics import SegmentationMetrics, named_scores

State = dict[str, dict[str, Tensor]]
"""Counts of one process: tensors by prefix and name."""


class EpochMetrics(nn.Module):
    """Counts by the prefix of the names of their scores.

    `train/` and `val/` exclude void; under `data.protocol=d2l` there are also `d2l/train_` and `d2l/test_`, where void
    counts as background.

    Args:
        classes: names of the classes.
        is_d2l: whether the protocol is d2l.

    Attributes:
        confusion: int64 [C, C] of the last validation, rows are the target.
    """

    def __init__(self, classes: Sequence[str], *, is_d2l: bool) -> None:
        super().__init__()
        self.classes = list(classes)
        prefixes = ["train/", "val/", *(["d2l/train_", "d2l/test_"] if is_d2l else [])]
        self._counts = nn.ModuleDict({prefix: SegmentationMetrics(len(classes)) for prefix in prefixes})
        self._validated: dict[str, dict[str, float]] = {}  # scores of the last validation, until the epoch ends
        self.confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)

    def __getitem__(self, prefix: str) -> SegmentationMetrics:
        counts = self._counts[prefix]
        assert isinstance(counts, SegmentationMetrics)
        return counts

    def validation_scores(self) -> dict[str, float]:
        """Return the scores of the validation that has ended, over all processes; a collective operation."""
        prefixes = [prefix for prefix in self._counts if prefix in ("val/", "d2l/test_")]
        self._validated = {prefix: self._scores(prefix) for prefix in prefixes}
        return {name: score for scores in self._validated.values() for name, score in scores.items()}

    def epoch_scores(self) -> dict[str, float]:
        """Return the scores of training and of the validation in this epoch; a collective operation.

        The names are those of summary.json: `train/loss`, `val/mean_iou`, `val/iou/<class>`, `d2l/train_acc`.
        """
        epoch: dict[str, float] = {}
        for prefix in self._counts:
            epoch |= self._validated.pop(prefix) if prefix in self._validated else self._scores(prefix)
        return epoch

    def _scores(self, prefix: str) -> dict[str, float]:
        """Return the scores over all processes, and reset the counts."""
        counts = self[prefix]
        with counts.sync_context():
            confusion = counts.confusion.cpu()
            loss_sum, divisor = float(counts.loss_sum), float(counts.loss_divisor)
        counts.reset()
        if not confusion.any():
            return {}
        if prefix == "val/":
            self.confusion = confusion
        loss = loss_sum / divisor if divisor else 0.0  # all pixels may have the weight 0
        return named_scores(prefix, confusion, loss, self.classes)

    def state(self) -> State:
        """Return a copy of the counts of this process, for `load_states`."""
        return {prefix: self[prefix].state() for prefix in self._counts}

    def load_states(self, states: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> None:
        """Replace the counts by the sums of the states of one or several processes; nothing changes without states."""
        for prefix in self._counts if states else ():
            self[prefix].load_state({key: sum(state[prefix][key] for state in states) for key in states[0][prefix]})  # type: ignore[misc]
