"""Commands, one module each, their entry through Hydra, help and tab completion."""
