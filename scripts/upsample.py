"""Upsample an image by a transposed convolution with the bilinear kernel, and compare it with interpolation."""

from fcn.cli.upsample import main

if __name__ == "__main__":
    main()
