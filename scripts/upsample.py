"""Upsamples an image by a transposed convolution with the bilinear kernel, beside torch's own interpolation."""

from fcn.cli.upsample import main

if __name__ == "__main__":
    main()
