"""Errors of files that cannot be imported, and of networks that cannot be exported."""


class OnnxError(ValueError):
    """An ONNX file or a network cannot be converted; the message names the file, the node and the reason."""


class Unsupported(Exception):
    """A layer has no nodes in ONNX; raised by the writer of the layer."""
