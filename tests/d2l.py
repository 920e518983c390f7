"""Network of the d2l chapter in plain torchvision, as an independent reference."""

import torchvision
from torch import nn


def d2l_network(num_classes: int) -> nn.Sequential:
    """Return the network of "Dive into Deep Learning", section 14.11, with random weights throughout."""
    network = nn.Sequential(*list(torchvision.models.resnet18().children())[:-2])
    network.add_module("final_conv", nn.Conv2d(512, num_classes, kernel_size=1))
    transposed = nn.ConvTranspose2d(num_classes, num_classes, kernel_size=64, padding=16, stride=32)
    network.add_module("transpose_conv", transposed)
    return network
