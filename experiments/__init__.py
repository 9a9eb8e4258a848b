"""One runnable a task: ``python -m experiments.NAME --help``."""
