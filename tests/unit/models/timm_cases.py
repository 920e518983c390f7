"""FCNs on backbones of timm, for tests."""

from fcn.config import option
from fcn.config.choices import Alignment
from fcn.models.fcn import FCN
from fcn.models.timm_backbones import build_timm_backbone


def build_fcn(
    name: str, head: str = "fcn32s", *, alignment: str = "chapter", num_classes: int = 3, **options: object
) -> FCN:
    config = option("model", head, alignment=Alignment(alignment))
    return FCN(build_timm_backbone(name, **options), config, num_classes=num_classes)
