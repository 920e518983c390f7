"""Predict masks, overlays and probabilities for images, or VOC's test set for the evaluation server."""

from fcn.cli.predict import main

if __name__ == "__main__":
    main()
