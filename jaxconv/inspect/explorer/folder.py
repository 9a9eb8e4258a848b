"""The folder of an explorer: files that are complete or absent, so that an interrupted run continues."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxconv.errors import ArgumentError
from jaxconv.extras import need
from jaxconv.layer import Tree
from jaxconv.leftovers import is_leftover

_MANIFEST = "explorer.json"
_PARTIAL = ".partial"
# Small images are shown enlarged: their pixels must stay exact.
_LOSSLESS = 64


def import_pillow() -> Any:
    """Returns Pillow's Image, or raises an error that names the extra."""
    return need("PIL.Image", "explore", "data")


def digest(tree: Tree) -> str:
    """Returns a hash of all arrays of a tree, with their paths."""
    found = hashlib.blake2b(digest_size=12)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(np.asarray(leaf))
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return found.hexdigest()


class Folder:
    """The output folder.

    Args:
      out: its path.
      made_of: what determines the content, by name: text or numbers. A folder of other content is refused.

    Raises:
      ArgumentError: the path is a file, or a folder that holds something else.
    """

    def __init__(self, out: str | os.PathLike[str], made_of: dict[str, Any]):
        self.path = Path(out)
        if self.path.exists() and not self.path.is_dir():
            raise ArgumentError(f"out must be a folder, got the file {os.fspath(self.path)}")
        made_of = json.loads(json.dumps(made_of))
        manifest = self.path / _MANIFEST
        if manifest.exists():
            try:
                before = json.loads(manifest.read_text())["made_of"]
                other = [name for name in made_of if before.get(name) != made_of[name]]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ArgumentError(
                    f"out must be a folder of an explorer, got {manifest}, which explore has not written"
                ) from None
            if other:
                raise ArgumentError(
                    f"out must be another folder than {os.fspath(self.path)}, which holds an explorer with other "
                    f"{', '.join(other)}"
                )
        else:
            held = sorted(name for name in os.listdir(self.path) if not is_leftover(name)) if self.path.exists() else []
            if held:
                raise ArgumentError(
                    f"out must be a new or empty folder, or one that explore has begun, got {os.fspath(self.path)}, "
                    f"which holds {held[0]}"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_json(_MANIFEST, {"made_of": made_of})

    def has(self, name: str) -> bool:
        """Returns whether a file is complete."""
        return (self.path / name).exists()

    def write(self, name: str, content: bytes) -> None:
        """Writes a file under a temporary name, and renames it."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(path.name + _PARTIAL)
        partial.write_bytes(content)
        os.replace(partial, path)

    def write_json(self, name: str, value: Any) -> None:
        """Writes JSON."""
        self.write(name, json.dumps(value, separators=(",", ":"), allow_nan=False).encode())

    def read_json(self, name: str) -> Any:
        """Returns the content of a JSON file."""
        return json.loads((self.path / name).read_text())

    def write_image(self, name: str, image: np.ndarray, *, lossless: bool = False) -> str:
        """Writes an image of floats in [0, 1] or of uint8, ``(height, width, 1, 3 or 4)``, and returns its file name.

        Images with transparency, small images and those marked lossless become PNG, others JPEG.
        """
        pixels = image if image.dtype == np.uint8 else np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
        exact = lossless or pixels.shape[-1] == 4 or max(pixels.shape[:2]) <= _LOSSLESS
        buffer = io.BytesIO()
        picture = import_pillow().fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        if exact:
            picture.save(buffer, format="png", optimize=True)
        else:
            picture.save(buffer, format="jpeg", quality=85)
        file = f"{name}.{'png' if exact else 'jpg'}"
        self.write(file, buffer.getvalue())
        return file
