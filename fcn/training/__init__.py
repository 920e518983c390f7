"""Training: the LightningModule, losses, optimisers, the trainer and its callbacks."""
