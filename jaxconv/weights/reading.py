"""What all readers of files share: a bound on memory."""

import os
from pathlib import Path as FilePath

from jaxconv.weights.errors import WeightsError


def check_size(path: FilePath, size: int) -> None:
    """Raises if arrays take far more bytes than their file: weights hardly compress, so such a file is an attack."""
    length = os.path.getsize(path)
    if size > 100 * length + 2**20:
        raise WeightsError(f"its arrays take {size} bytes, the file has {length}: too many to be weights")
