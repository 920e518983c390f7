"""Requirements of a trainer, and validation after the last epoch."""

from types import SimpleNamespace

import pytest

from fcn.config import ConfigError
from fcn.config.composition import compose
from fcn.training.trainer import LastEpochValidation, build_trainer


@pytest.mark.parametrize(("world", "is_error"), [(1, False), (2, True)])
def test_synchronised_batch_norm_of_several_processes_needs_gpus(monkeypatch, world, is_error):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(world))
    config = compose("trainer=cpu", "trainer.devices=null", "trainer.sync_batchnorm=true")
    if is_error:
        with pytest.raises(ConfigError, match=r"sync_batchnorm \(=true\) needs GPUs"):
            build_trainer(config, callbacks=[])
    else:
        build_trainer(config, callbacks=[])


def test_images_on_the_device_need_a_gpu():
    with pytest.raises(ConfigError, match=r"data\.on_device \(=true\) needs a GPU"):
        build_trainer(compose("trainer=cpu", "data.on_device=true"), callbacks=[])


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_epoch_start"])
@pytest.mark.parametrize(("epoch", "interval"), [(0, 2), (1, 2), (2, 1)])
def test_last_epoch_is_validated(hook, epoch, interval):
    trainer = SimpleNamespace(current_epoch=epoch, max_epochs=3, check_val_every_n_epoch=2)
    getattr(LastEpochValidation(), hook)(trainer, None)
    assert trainer.check_val_every_n_epoch == interval
