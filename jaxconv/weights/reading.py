"""What all readers of files share: optional packages, and a bound on memory."""

import importlib
import os
from pathlib import Path as FilePath
from typing import Any

from jaxconv.weights.errors import WeightsError


def need(module: str, use: str, extra: str = "weights") -> Any:
    """Imports a package of an extra, or raises ImportError, which names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{use} needs {module.split('.')[0]}: pip install 'jaxconv[{extra}]'") from error


def check_size(path: FilePath, size: int) -> None:
    """Raises if arrays take far more bytes than their file: weights hardly compress, so such a file is an attack."""
    length = os.path.getsize(path)
    if size > 100 * length + 2**20:
        raise WeightsError(f"its arrays take {size} bytes, the file has {length}: too many to be weights")
