"""Options of the group `callbacks`: Lightning's callbacks that fit the training of this project."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from fcn.config import CallbackConfig, Config, ConfigError, component, component_origins, nearest, setting
from fcn.config.choices import Mode, Protocol

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from fcn.training.early_stopping import EarlyStopping
    from fcn.training.overfit import Overfit
    from fcn.training.weight_averaging import WeightAveraging

SCORES = ("pixel_accuracy", "mean_accuracy", "mean_iou", "fw_iou")


def scalar_names(config: Config) -> list[str]:
    """Return the names of the scalars of a run that are defined before training: those of metrics.csv."""
    d2l = ["d2l/train_loss", "d2l/train_acc", "d2l/test_loss", "d2l/test_acc"]
    return [
        *("train/loss", "train/pixel_accuracy", "val/loss", *(f"val/{score}" for score in SCORES)),
        *(f"val/iou/{name}" for name in config.data.classes),
        *(d2l if config.data.protocol is Protocol.d2l else ()),
        *("best/mean_iou", "lr", "gradient_norm", "images_per_second", "data_wait", "memory_mib"),
    ]


@component("callbacks", "early_stopping")
class EarlyStoppingConfig(CallbackConfig):
    """Ends the run when a scalar has stopped improving. The run is then finished."""

    monitor: str = setting("val/mean_iou", "scalar of metrics.csv, such as val/loss, train/loss or val/iou/cat")
    mode: Mode = setting(Mode.auto, "whether smaller (min) or larger (max) values are better; auto: min for a loss")
    patience: int = setting(5, "number of validations in a row without improvement after which the run ends", low=1)
    min_delta: float = setting(0.0, "smallest change that counts as an improvement", low=0)
    stopping_threshold: float | None = setting(None, "end the run as soon as the scalar is better; null: none", low=0)

    def check(self, config: Config) -> None:
        known = scalar_names(config)
        # Other callbacks may log scalars of their own; layers of the network name those of the upsampling.
        if self.monitor in known or self.monitor.startswith("upsampling/drift/") or component_origins(config):
            return
        raise ConfigError(
            f"callbacks.early_stopping.monitor (={self.monitor}) must be a scalar of the run"
            f"{nearest(self.monitor, known)}; scalars: {', '.join(known)}"
        )

    @property
    def is_minimized(self) -> bool:
        """Whether smaller values are better."""
        return self.monitor.endswith("loss") if self.mode is Mode.auto else self.mode is Mode.min

    def build(self, config: Config, run_dir: Path) -> EarlyStopping:
        from fcn.training.early_stopping import EarlyStopping

        return EarlyStopping(self)


@component("callbacks", "ema")
class EmaConfig(CallbackConfig):
    """Exponential moving average of the weights, which is validated, saved as the best checkpoint and loaded."""

    decay: float = setting(0.999, "factor of the average at each step", low=0, high=0.999999)
    warmup: bool = setting(
        True, "use the smaller decay (1 + n) / (10 + n) at step n, so that early weights are forgotten"
    )

    def build(self, config: Config, run_dir: Path) -> WeightAveraging:
        from fcn.training.weight_averaging import WeightAveraging

        return WeightAveraging(self.decay, warmup=self.warmup)


@component("callbacks", "lr_monitor")
class LrMonitorConfig(CallbackConfig):
    """Sends the learning rates of all parameter groups to the loggers (Lightning's LearningRateMonitor)."""

    changes_result = False
    log_momentum: bool = setting(False, "send momentum or the betas too")
    log_weight_decay: bool = setting(False, "send the weight decay too")

    def check(self, config: Config) -> None:
        _check_has_logger(config, "lr_monitor", "the learning rate is in metrics.csv without it")

    def build(self, config: Config, run_dir: Path) -> Callback:
        from pytorch_lightning.callbacks import LearningRateMonitor

        return LearningRateMonitor("step", log_momentum=self.log_momentum, log_weight_decay=self.log_weight_decay)


@component("callbacks", "device_stats")
class DeviceStatsConfig(CallbackConfig):
    """Sends memory and utilisation of the device to the loggers (Lightning's DeviceStatsMonitor)."""

    changes_result = False
    cpu_stats: bool | None = setting(None, "send those of the CPU; null: only if it is the device of the run")

    def check(self, config: Config) -> None:
        _check_has_logger(config, "device_stats", "the peak memory is in metrics.csv without it")
        if importlib.util.find_spec("psutil") is None:  # Lightning needs it for a CPU
            raise ConfigError("callbacks (=device_stats) needs psutil; use pip install psutil")

    def build(self, config: Config, run_dir: Path) -> Callback:
        from pytorch_lightning.callbacks import DeviceStatsMonitor

        return DeviceStatsMonitor(cpu_stats=self.cpu_stats)


@component("callbacks", "model_summary")
class ModelSummaryConfig(CallbackConfig):
    """Prints the layers of the network with their numbers of parameters (Lightning's ModelSummary)."""

    changes_result = False
    max_depth: int = setting(3, "depth of nested modules; -1: all", low=-1)

    def build(self, config: Config, run_dir: Path) -> Callback:
        from fcn.training.model_summary import ModelSummary

        return ModelSummary(self.max_depth)


@component("callbacks", "overfit")
class OverfitConfig(CallbackConfig):
    """Ends the run when its training images have been learned, and says whether it worked; see debug=overfit."""

    mean_iou: float = setting(0.9, "mean IoU of the training crops from which they count as learned", low=0, high=1)

    def build(self, config: Config, run_dir: Path) -> Overfit:
        from fcn.training.overfit import Overfit

        return Overfit(self.mean_iou)


def _check_has_logger(config: Config, name: str, remark: str) -> None:
    if not config.logger:
        raise ConfigError(
            f"callbacks (={name}) must have a logger; add logger=[tensorboard], or leave it out: {remark}"
        )
