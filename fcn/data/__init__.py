"""Images, their order and their augmentation."""
