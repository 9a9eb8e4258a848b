"""What is raised where weights cannot be read or do not fit."""


class WeightsError(ValueError):
    """A file of weights that cannot be trusted or read, or tensors that do not fit the network."""
