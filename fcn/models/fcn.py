"""Fully convolutional networks (Long, Shelhamer, Darrell 2015): class scores per pixel, for any size."""

from collections.abc import Iterator

from torch import Tensor, nn

from fcn.config import BackboneConfig, Init, ModelConfig, ModelName
from fcn.models.backbones import Backbone, build_backbone
from fcn.models.upsampling import upsampling


class FCN32s(nn.Module):
    """The coarsest map of the trunk, scored per cell and upsampled to pixels in one step.

    The chapter's network: trunk, 1x1 convolution to the classes, transposed convolution. The stride is the
    trunk's, 32 for a ResNet and 16 for SqueezeNet; the name is the paper's.

    Args:
        backbone: the trunk.
        num_classes: classes, the background among them.
        init: initialisation of the transposed convolution.
        upsample_trainable: False freezes the transposed convolution.
    """

    def __init__(self, backbone: Backbone, *, num_classes: int, init: Init, upsample_trainable: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.score_fr = _score_layer(backbone.channels[-1], num_classes)
        self.upscore = upsampling(num_classes, stride=backbone.strides[-1], init=init, trainable=upsample_trainable)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every pixel.

        Args:
            images: float [N, 3, H, W], normalised, H and W from 1 up.

        Returns:
            float [N, num_classes, H, W]. A side that is no multiple of the stride is upsampled to the next
            multiple and cut at the bottom or right.
        """
        height, width = images.shape[-2:]
        logits: Tensor = self.upscore(self.score_fr(self.backbone(images)[-1]))
        return logits[..., :height, :width]

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters outside the trunk, frozen ones included; the trunk's are `backbone.parameters()`."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("backbone."))


def _score_layer(channels: int, num_classes: int) -> nn.Conv2d:
    """1x1 convolution to the classes, Glorot uniform with zero bias, as the chapter's text has it."""
    layer = nn.Conv2d(channels, num_classes, kernel_size=1)
    assert layer.bias is not None
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


MODELS = {ModelName.fcn32s: FCN32s}


def build_model(model: ModelConfig, backbone: BackboneConfig, *, num_classes: int) -> FCN32s:
    """The network of `model` on the trunk of `backbone`, initialised from torch's global generator.

    Raises:
        WeightsError: if the weights of the trunk cannot be had or do not fit.
    """
    network = MODELS[model.name]
    return network(
        build_backbone(backbone),
        num_classes=num_classes,
        init=model.init,
        upsample_trainable=model.upsample_trainable,
    )
