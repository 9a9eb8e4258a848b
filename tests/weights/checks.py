"""What tests of files share."""

import numpy as np

from jaxconv.weights import WeightsError


def assert_same(a, b):
    """Checks that two mappings hold the same arrays, types and shapes included."""
    assert a.keys() == b.keys()
    for name, array in a.items():
        assert (array.dtype, array.shape) == (b[name].dtype, b[name].shape), name
        np.testing.assert_array_equal(array, b[name])


def assert_survives(path, content, read):
    """Checks that what may be damaged is refused in one sentence, or gives arrays of numbers."""
    path.write_bytes(content)
    try:
        arrays = read(path)
    except WeightsError as error:
        refusal = str(error)
        assert refusal.startswith(f"{path}: ")
        assert "\n" not in refusal
    else:
        assert all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in arrays.items())


def contents(folder):
    """Returns what the files of a folder hold."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
