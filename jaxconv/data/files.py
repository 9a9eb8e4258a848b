"""Files of data sets: where to search for them, reads of bounded size, and downloads."""

import gzip
import importlib
import importlib.util
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from jaxconv.data.dataset import DataError
from jaxconv.extras import not_installed

StrPath = str | os.PathLike[str]
T = TypeVar("T")

CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Returns up to ``size`` bytes, and no bytes at the end."""


def read_up_to(stream: Readable, limit: int) -> bytearray:
    """Reads at most ``limit`` bytes. Memory grows with the bytes that the stream really has."""
    content = bytearray()
    while len(content) < limit:
        chunk = stream.read(min(CHUNK, limit - len(content)))
        if not chunk:
            break
        content += chunk
    return content


def gzip_fault(error: Exception) -> str:
    """Returns a description of the error of a gzipped file."""
    if isinstance(error, EOFError):
        return "the gzip stream ends early: the file is truncated"
    return f"the gzip stream is damaged: {error}"


# The exceptions of a damaged gzip stream.
GZIP_FAULTS = (EOFError, gzip.BadGzipFile, zlib.error)


class Location(NamedTuple):
    """A folder to search, and the reason."""

    path: Path
    reason: str


class Missing(NamedTuple):
    """The result of a search of a folder that lacks some files."""

    what: str


def locations(folder: StrPath | None, variable: str, *defaults: Location) -> tuple[Location, ...]:
    """Returns the folders to search.

    A folder that the user names, by argument or by environment variable, is the only one, so that a misspelled name is
    an error and does not load other data.
    """
    if folder is not None:
        return (Location(Path(folder).expanduser(), "the argument folder"),)
    if os.environ.get(variable):
        return (Location(Path(os.environ[variable]).expanduser(), f"the environment variable {variable}"),)
    return defaults


def search(candidates: Sequence[Location], look: Callable[[Path], T | Missing], name: str, advice: str) -> T:
    """Returns the result of ``look`` at the first location that has files, or raises a DataError with all locations."""
    seen = []
    for location in candidates:
        if not location.path.exists():
            seen.append(f"{location.path} ({location.reason}) does not exist")
            continue
        found = look(location.path)
        if not isinstance(found, Missing):
            return found
        seen.append(f"{location.path} ({location.reason}) {found.what}")
    raise DataError(f"{name} is not found: {'; '.join(seen)}. {advice}")


def package_folder(package: str, use: str) -> Path:
    """Returns the folder of an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise not_installed(use, [package], "data")
    return Path(next(iter(spec.submodule_search_locations)))


def cache_folder(name: str) -> Location:
    """Returns the default folder of downloads."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Location(root / "jaxconv" / name, "the cache of downloads")


def fetch(url: str, sha256: str, folder: Path) -> Path:
    """Downloads ``url`` into ``folder`` through a temporary file, which is renamed only if its SHA-256 is right."""
    package_folder("pooch", "download=True")
    pooch = importlib.import_module("pooch")
    file = url.rsplit("/", 1)[-1]
    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{sha256}", fname=file, path=folder))
    except (OSError, ValueError) as error:
        # requests' errors are OSErrors; a wrong hash is pooch's ValueError.
        raise DataError(f"{url} could not be downloaded: {error}") from error
