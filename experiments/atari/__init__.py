"""Deep Q-learning on games: `python -m experiments.atari`, see `experiments.atari.command`."""
