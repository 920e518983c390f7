"""What is typed wrong, and YAML that is wrong: nothing is made."""

from pathlib import Path

from tests.matrix.case import Case


def typed(*arguments: str, **options) -> Case:
    return Case(" ".join(f"`{argument}`" for argument in arguments), ("epochs=0", *arguments), **options)


def yaml(name: str, text: str):
    """Writes conf/<name>.yaml in the working directory."""

    def write(folder: Path) -> None:
        path = folder / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)

    return write


def preset(what: str, text: str) -> Case:
    """A preset of one's own, conf/experiment/mine.yaml."""
    arguments = ("--config-dir", "conf", "experiment=mine")
    return Case(f"a preset of one's own {what}", arguments, given=yaml("experiment/mine", text))


KEYS = [
    typed("model.int=xavier"),
    typed("+model.int=xavier"),
    typed("init=xavier"),
    typed("++foo.bar=1"),
    typed("hydra.run.dri=x"),
    typed("model._target_=os.system"),
    typed("+_target_=os.system"),
]

GROUPS = [
    typed("bakcbone=resnet50"),
    typed("backbone=resnt18"),
    typed("model/init=xaver"),
    typed("experiment=dl2"),
    typed("trainer=tpu"),
    typed("optim=null"),
    typed("search=default"),
    typed("hydra/launcher=slrum"),
]

VALUES = [
    typed("lr=abc"),
    typed("lr="),
    typed("lr=null"),
    typed("lr=-1"),
    typed("lr=nan"),
    typed("lr=1e999"),
    typed("lr=${backbone.nme}"),
    typed("lr=${oc.env:NO_SUCH_VARIABLE}"),
    typed("epochs=2.5"),
    typed("epochs=-1"),
    typed("batch_size=0"),
    typed("seed=-1"),
    typed("model.init=xaver"),
    typed("data.download=maybe"),
    typed("data.crop_size=5"),
    typed("data.crop_size=[320]"),
    typed("data.crop_size=[320,x]"),
    typed("data.crop_size=[0,0]"),
    typed("data.augmentation.flip=1.5"),
    typed("data.augmentation=none"),
    typed("name=../elsewhere"),
    typed("name="),
    typed("resume="),
    typed("data.classes=[background,'']"),
    typed("allow=lr"),
]

SYNTAX = [
    typed("lr"),
    typed("data.crop_size=[320,480"),
    typed("name='mine"),
    typed("name=café"),
    typed("data.root=~/voc"),
    typed("lr 0.1"),
    typed("--lr=0.1"),
    typed("--lr", "0.1"),
    typed("-lr=0.1"),
    typed("--config-name", "mine"),
    typed("--config-dir"),
    typed("--config-dir", "nowhere"),
]

CONFLICTS = [
    typed("data.augmentation.scale=[2,1]"),
    typed("data.classes=[background]"),
    typed("data.classes=[background,cat,cat]"),
    typed("optim.nesterov=true", "optim.momentum=0"),
    typed("trainer.precision=fp16", "trainer=cpu"),
    typed("trainer=ddp_cpu", "batch_size=3"),
    typed("trainer.accumulate=3"),
    typed("trainer=gpu", "trainer.devices=16"),
    typed("model=torchvision", "backbone.name=resnet18"),
    typed("model.weights=voc"),
    typed("model=torchvision", "model.name=fcn8s"),
    typed("model=torchvision", "model.name=deeplabv3_resnet50", "batch_size=1"),
    typed("-m", "resume=run"),
    typed("-m", "execute=false"),
    typed("-m", "lr=0.1,abc"),
    typed("resume=run", "execute=false"),
]

YAML = [
    preset("with a typo in a key", "# @package _global_\nmodel:\n  int: xavier\n"),
    preset("with a value of the wrong type", "# @package _global_\nlr: high\n"),
    preset("with a key twice", "# @package _global_\nlr: 0.1\nlr: 0.2\n"),
    preset("that is no YAML", "# @package _global_\nlr: [0.1\n"),
    preset("that holds a list", "# @package _global_\n- lr\n"),
    preset("with a Python object", "# @package _global_\nname: !!python/object/apply:os.system ['touch executed']\n"),
    preset("without `# @package _global_`", "lr: 0.1\n"),
    preset(
        "that overrides a group that is not there", "# @package _global_\ndefaults:\n  - override /backbne: vgg16\n"
    ),
]

SECTIONS = {
    "Keys": KEYS,
    "Groups": GROUPS,
    "Values": VALUES,
    "Syntax": SYNTAX,
    "Keys that contradict each other": CONFLICTS,
    "YAML of one's own": YAML,
}
