"""Check every image and mask of a dataset, after downloading VOC 2012 on request, and print class statistics."""

from fcn.cli.prepare_voc import main

if __name__ == "__main__":
    main()
