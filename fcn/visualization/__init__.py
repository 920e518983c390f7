"""Pictures: masks, errors, panels, legends, matrices, curves, kernels, comparisons, searches; and their files.

Everything here is NumPy arrays in and NumPy arrays or PIL images out. Matplotlib is used through its objects,
never through pyplot, so that no global state is shared between threads and no figure has to be closed.
"""

from fcn.visualization.comparison_figures import MOST_GROUPS, delta_figure, group_curves
from fcn.visualization.curves import curves_figure
from fcn.visualization.figures import confusion_figure, figure_image, row_shares
from fcn.visualization.kernels import kernels_figure
from fcn.visualization.legends import class_legend, legend
from fcn.visualization.masks import ERROR_COLOR, Sample, colorize, error_map, overlay
from fcn.visualization.panels import CELL_SIZE, caption, panels, side_by_side
from fcn.visualization.png_files import save_png
from fcn.visualization.search_figures import Ended, history_figure, importance_figure

__all__ = [
    "CELL_SIZE",
    "ERROR_COLOR",
    "MOST_GROUPS",
    "Ended",
    "Sample",
    "caption",
    "class_legend",
    "colorize",
    "confusion_figure",
    "curves_figure",
    "delta_figure",
    "error_map",
    "figure_image",
    "group_curves",
    "history_figure",
    "importance_figure",
    "kernels_figure",
    "legend",
    "overlay",
    "panels",
    "row_shares",
    "save_png",
    "side_by_side",
]
