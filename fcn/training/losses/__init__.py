"""Losses: one file per loss, with its configuration and its formula.

The files are read to compose a configuration and therefore import torch only where they compute.
"""
