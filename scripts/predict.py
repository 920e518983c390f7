"""Masks, overlays and probabilities for images of one's own, or VOC's test set for the evaluation server."""

from fcn.cli.predict import main

if __name__ == "__main__":
    main()
