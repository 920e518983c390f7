"""Upsample an image with a transposed convolution with the bilinear kernel, next to torch's interpolation."""

from fcn.cli.upsample import main

if __name__ == "__main__":
    main()
