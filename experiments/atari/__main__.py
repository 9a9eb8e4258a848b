"""Runs `experiments.atari.command`."""

from experiments import report
from experiments.atari.command import main

if __name__ == "__main__":
    report.run(main)
