"""Invalid overrides and presets: no file is written."""

from pathlib import Path

from tests.matrix.case import Case


def overrides(*arguments: str, **options) -> Case:
    return Case(" ".join(f"`{argument}`" for argument in arguments), ("epochs=0", *arguments), **options)


def yaml(name: str, text: str):
    """Return a function that writes conf/<name>.yaml in the working directory."""

    def write(folder: Path) -> None:
        path = folder / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)

    return write


def preset(description: str, text: str) -> Case:
    """Return a case with the preset conf/experiment/mine.yaml."""
    arguments = ("--config-dir", "conf", "experiment=mine")
    return Case(f"a preset {description}", arguments, given=yaml("experiment/mine", text))


KEYS = [
    overrides("model.int=xavier"),
    overrides("+model.int=xavier"),
    overrides("init=xavier"),
    overrides("++foo.bar=1"),
    overrides("hydra.run.dri=x"),
    overrides("model._target_=os.system"),
    overrides("+_target_=os.system"),
]

GROUPS = [
    overrides("bakcbone=resnet50"),
    overrides("backbone=resnt18"),
    overrides("model/init=xaver"),
    overrides("experiment=dl2"),
    overrides("trainer=tpu"),
    overrides("optim=null"),
    overrides("search=default"),
    overrides("hydra/launcher=slrum"),
    overrides("experiment=1_8"),
]

CALLBACKS = [
    overrides("callbacks=[early_stopping]", "callbacks.early_stopping.monitor=val/miou"),
    overrides("callbacks=[early_stoping]"),
    overrides("callbacks=[ema]", "callbacks.ema.decay=1"),
    overrides("callbacks.ema.decay=0.9"),
    overrides("callbacks=[lr_monitor]", "logger=[]"),
    overrides("trainer.profiler=nvtx"),
    overrides("trainer.max_minutes=0"),
    overrides("trainer.max_time=3"),
]

SEVERAL_VALUES = [
    overrides("lr=0.1,0.01"),
    overrides("name=a,b"),
    overrides("trainer.devices=0,1"),
    overrides("data=voc", "data.classes=[background,猫,狗]"),
    overrides("data.classes=background,cat"),
    overrides("model/init=bilinear,xavier"),
    overrides("lr=interval(0,1)"),
    overrides("-m", "lr=interval(0,1)"),
    overrides("lr=range(1,3)"),
    Case("several splits to evaluate", ("run=run", "split=train,val"), script="evaluate"),
]

VALUES = [
    overrides("lr=abc"),
    overrides("lr="),
    overrides("lr=null"),
    overrides("lr=-1"),
    overrides("lr=nan"),
    overrides("lr=1e999"),
    overrides("lr=${backbone.nme}"),
    overrides("lr=${oc.env:NO_SUCH_VARIABLE}"),
    overrides("epochs=2.5"),
    overrides("epochs=-1"),
    overrides("batch_size=0"),
    overrides("seed=-1"),
    overrides("model.init=xaver"),
    overrides("data.download=maybe"),
    overrides("data.crop_size=5"),
    overrides("data.crop_size=[320]"),
    overrides("data.crop_size=[320,x]"),
    overrides("data.crop_size=[0,0]"),
    overrides("data.augmentation.flip=1.5"),
    overrides("data.augmentation=none"),
    overrides("name=../elsewhere"),
    overrides("name="),
    overrides("resume="),
    overrides("data.classes=[background,'']"),
    overrides("allow=lr"),
]

SYNTAX = [
    overrides("lr"),
    overrides("data.crop_size=[320,480"),
    overrides("name='mine"),
    overrides("name=café"),
    overrides("data.root=~/voc"),
    overrides("lr 0.1"),
    overrides("--lr=0.1"),
    overrides("--lr", "0.1"),
    overrides("-lr=0.1"),
    overrides("--config-name", "mine"),
    overrides("--config-dir"),
    overrides("--config-dir", "nowhere"),
]

CONFLICTS = [
    overrides("data.augmentation.scale=[2,1]"),
    overrides("data.classes=[background]"),
    overrides("data.classes=[background,cat,cat]"),
    overrides("optim.nesterov=true", "optim.momentum=0"),
    overrides("trainer.precision=fp16", "trainer=cpu"),
    overrides("trainer=ddp_cpu", "batch_size=3"),
    overrides("trainer.accumulate=3"),
    overrides("trainer.accumulate=two"),
    overrides("trainer=ddp_cpu", "trainer.accumulate=auto", "trainer.sync_batchnorm=true"),
    overrides("trainer.activation_checkpointing=true", "compile=true"),
    overrides("trainer.activation_checkpointing=true", "backbone.trainable=false"),
    overrides("trainer=gpu", "trainer.devices=16"),
    overrides("trainer.devices=[0,1]"),
    overrides("trainer.devices=auto"),
    overrides("trainer.devices=-1"),
    overrides("trainer.dry_run_processes=0"),
    overrides("trainer.dry_run_batch_sizes=[8,16]"),
    overrides("trainer.dry_run_processes=4", "trainer.dry_run_batch_sizes=[8,18]"),
    overrides("trainer.dry_run_processes=3"),
    overrides("trainer.dry_run_processes=4"),
    overrides("trainer.dry_run_processes=4", "execute=false"),
    overrides("trainer.dry_run_processes=4", "trainer.accumulate=auto"),
    overrides("-m", "trainer.dry_run_processes=4"),
    overrides("resume=run", "trainer.dry_run_processes=4"),
    overrides("model=torchvision", "backbone.name=resnet18"),
    overrides("model.weights=voc"),
    overrides("model=torchvision", "model.name=fcn8s"),
    overrides("model=torchvision", "model.name=deeplabv3_resnet50", "batch_size=1"),
    overrides("steps=9"),
    overrides("trainer.val_every_steps=9"),
    overrides("-m", "resume=run"),
    overrides("-m", "execute=false"),
    overrides("-m", "lr=0.1,abc"),
    overrides("resume=run", "execute=false"),
]

YAML = [
    preset("with a misspelled key", "# @package _global_\nmodel:\n  int: xavier\n"),
    preset("with a value of the wrong type", "# @package _global_\nlr: high\n"),
    preset("with a duplicate key", "# @package _global_\nlr: 0.1\nlr: 0.2\n"),
    preset("with invalid YAML", "# @package _global_\nlr: [0.1\n"),
    preset("with a list", "# @package _global_\n- lr\n"),
    preset("with a Python object", "# @package _global_\nname: !!python/object/apply:os.system ['touch executed']\n"),
    preset("without `# @package _global_`", "lr: 0.1\n"),
    preset("that overrides an unknown group", "# @package _global_\ndefaults:\n  - override /backbne: vgg16\n"),
]

SECTIONS = {
    "Keys": KEYS,
    "Groups": GROUPS,
    "Callbacks and trainer": CALLBACKS,
    "Several values": SEVERAL_VALUES,
    "Values": VALUES,
    "Syntax": SYNTAX,
    "Contradictory keys": CONFLICTS,
    "Presets": YAML,
}
