"""Run directories: files, configuration, summary, checkpoints, provenance, resume and rerun."""

from fcn.runs.atomic_files import copy_file, write_text
from fcn.runs.locks import LOCK, locked
from fcn.runs.metrics_table import METRICS, progress, read_metrics, write_metrics
from fcn.runs.run_directory import (
    BEST,
    CONFIG,
    CONFUSIONS,
    CONSOLE,
    CURVES,
    EVALUATION,
    FAILURE,
    LAST,
    LOG,
    OVERRIDES,
    PREVIOUS,
    SAMPLES,
    SCORES,
    change,
    checkpoint_of,
    chosen_options,
    create,
    create_folder,
    is_rank_zero,
    load_config,
    load_overrides,
)
from fcn.runs.stop_signals import STOP_SIGNALS
from fcn.runs.summary import (
    SUMMARY,
    Status,
    best_score,
    final_metrics,
    read_status,
    read_summary,
    set_status,
    write_summary,
)

__all__ = [
    "BEST", "CONFIG", "CONFUSIONS", "CONSOLE", "CURVES", "EVALUATION", "FAILURE", "LAST", "LOCK", "LOG", "METRICS",
    "OVERRIDES", "PREVIOUS", "SAMPLES", "SCORES", "STOP_SIGNALS", "SUMMARY", "Status", "best_score", "change",
    "checkpoint_of", "chosen_options", "copy_file", "create", "create_folder", "final_metrics", "is_rank_zero",
    "load_config", "load_overrides", "locked", "progress", "read_metrics", "read_status", "read_summary",
    "set_status", "write_metrics", "write_summary", "write_text",
]  # fmt: skip
