"""The commands beside train.py, a file each; a wheel has them as fcn.scripts."""
