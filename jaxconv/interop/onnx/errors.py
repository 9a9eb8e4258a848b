"""What is raised for a file that cannot be imported and for a network that cannot be exported."""


class OnnxError(ValueError):
    """An ONNX file, or a network, that cannot be converted: one sentence that names the file, the node, the reason."""


class Unsupported(Exception):
    """What the writer of a layer raises that has no nodes in ONNX."""
