"""The error of a training whose loss or weights are not finite."""

from fcn.errors import UserError


class TrainingDiverged(UserError):
    """The loss or a weight became NaN or infinite.

    On a CPU this is raised before the optimiser steps. On a GPU the loss is read every `trainer.log_every` steps only,
    because reading it waits for the device. Before a checkpoint is saved, the loss and all weights are checked.
    """
