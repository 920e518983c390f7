"""Entry scripts other than train.py; a wheel contains them as fcn.scripts."""
