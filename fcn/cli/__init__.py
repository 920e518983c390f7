"""Commands: one module each, the entry through Hydra, and tab completion."""
