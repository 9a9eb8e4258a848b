"""Runs `experiments.atari.command`."""

import sys

from experiments.atari.command import main

try:
    main()
except (ValueError, OSError, ImportError, FloatingPointError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
