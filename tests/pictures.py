"""Synthetic images and masks, and searches in drawn images."""

import numpy as np

# Colours of the VOC devkit.
KNOWN_COLORS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
VOID_COLOR = (224, 224, 192)
MAGENTA = (255, 0, 255)  # neither a class colour nor a text colour


def filled(height, width, color=MAGENTA):
    return np.full((height, width, 3), color, np.uint8)


def stripes(height, width, *indices):
    """Return a mask of vertical stripes."""
    return np.asarray(indices, np.uint8)[np.arange(width) * len(indices) // width][None].repeat(height, axis=0)


def boxes(sheet, color):
    """Return left, top, right, bottom of the areas of one colour, from top to bottom; no two may share a line."""
    matches = (np.asarray(sheet) == color).all(axis=2)
    edges = np.flatnonzero(np.diff(np.r_[False, matches.any(axis=1), False]))
    areas = []
    for top, bottom in edges.reshape(-1, 2).tolist():
        columns = np.flatnonzero(matches[top:bottom].any(axis=0))
        areas.append((int(columns[0]), top, int(columns[-1]) + 1, bottom))
    return areas


def has_white_border(image, width):
    """Whether the outermost pixels are white: nothing is cut off at the edges."""
    pixels = np.asarray(image)
    return all((edge == 255).all() for edge in (pixels[:width], pixels[-width:], pixels[:, :width], pixels[:, -width:]))
