"""Fetches Pascal VOC 2012 if asked to, reads every image and mask of its splits, prints class statistics."""

from fcn.cli.prepare_voc import main

if __name__ == "__main__":
    main()
