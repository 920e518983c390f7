"""Execute a run directory: `python -m fcn.worker RUN_DIR`; see `fcn.execution.worker_process`."""

from fcn.execution.worker_process import main

if __name__ == "__main__":
    main()
