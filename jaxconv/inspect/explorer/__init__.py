"""An explorer: a folder of web pages about a network, its layers, its units, and their responses to images."""

from jaxconv.inspect.explorer.build import explore

__all__ = ["explore"]
