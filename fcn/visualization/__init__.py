"""Drawing: masks, panels, legends, learning curves, confusion matrices, kernels, comparisons and searches.

All functions take NumPy arrays or plain values and return NumPy arrays or PIL images. Matplotlib is used through its
objects, never through pyplot: threads share no global state, and no figure has to be closed.
"""
