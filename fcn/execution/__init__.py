"""Execution of run directories: the processes of a run, jobs, sweeps, cluster jobs and searches."""
