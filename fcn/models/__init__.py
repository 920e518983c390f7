"""Backbones, upsampling and the FCN on top of them."""
