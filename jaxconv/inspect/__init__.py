"""What a network is and what it sees: small functions over the layers that it is made of."""

from jaxconv.inspect.activations import activations
from jaxconv.inspect.summary import Summary, summary
from jaxconv.inspect.trace import Row, receptive_field, trace

__all__ = ["Row", "Summary", "activations", "receptive_field", "summary", "trace"]
