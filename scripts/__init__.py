"""Entry scripts besides train.py; a wheel contains them as fcn.scripts."""
