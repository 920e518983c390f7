"""Datasets: reading, caching, order and augmentation of images and masks."""
