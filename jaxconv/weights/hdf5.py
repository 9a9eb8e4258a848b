"""HDF5 files, and the HDF5 file in Keras's archives."""

import io
import zipfile
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from jaxconv.extras import need
from jaxconv.weights.arrays import Arrays
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.reading import check_size

# Networks are a few groups deep.
_DEEPEST_GROUP = 64
KERAS_WEIGHTS, KERAS_CONFIG = "model.weights.h5", "config.json"


def read_hdf5(path: FilePath, content: Any = None) -> Arrays:
    """Reads the datasets of an HDF5 file: that of the path, or one in memory."""
    library = need("h5py", "reading .h5", "weights")
    with library.File(path if content is None else content, "r") as file:
        datasets = _datasets(library, file)
        check_size(path, sum(int(item.nbytes) for item in datasets.values()))
        return {name: np.asarray(item[()]) for name, item in datasets.items()}


def _datasets(library: Any, file: Any) -> dict[str, Any]:
    """Returns the datasets of a file by name. Each group is entered once, from the one around it."""
    found: dict[str, Any] = {}
    groups, entered = [("", file, 0)], set()
    while groups:
        prefix, group, depth = groups.pop()
        number = library.h5o.get_info(group.id).addr
        if depth > _DEEPEST_GROUP:
            raise WeightsError(f"its groups are more than {_DEEPEST_GROUP} deep: {prefix[:40]}...")
        if number in entered:
            raise WeightsError(f"{prefix[:-1]!r} links to a group that another name has too")
        entered.add(number)
        for part in group:
            name = prefix + part
            if not isinstance(group.get(part, getlink=True), library.HardLink):
                raise WeightsError(f"{name!r} is a link, perhaps to another file")
            item = group[part]
            if isinstance(item, library.Group):
                groups.append((f"{name}/", item, depth + 1))
            elif isinstance(item, library.Dataset):
                if item.external or item.is_virtual or item.shape is None:
                    raise WeightsError(f"{name!r} has no data in this file")
                found[name] = item
    return dict(sorted(found.items()))


def in_archive(path: FilePath, name: str) -> bytes:
    """Returns a file of a zip archive, if the archive is not far smaller."""
    with zipfile.ZipFile(path) as archive:
        if name not in archive.NameToInfo:
            raise WeightsError(f"its zip archive has no {name}")
        check_size(path, archive.NameToInfo[name].file_size)
        return archive.read(name)


def read_keras(path: FilePath) -> Arrays:
    """Reads the weights in one of Keras's archives."""
    return read_hdf5(path, io.BytesIO(in_archive(path, KERAS_WEIGHTS)))
