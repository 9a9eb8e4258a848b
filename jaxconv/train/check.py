"""`python -m jaxconv.train.check FOLDER`: which checkpoints of a run's folder are whole.

One line for each checkpoint, of which every byte is read. Ends with 0 if all are whole, 1 if one is damaged or there is
none, 2 if FOLDER isn't a folder. Changes nothing; a run may be going on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxconv.train import layout


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the lines and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxconv.train.check", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a run's folder, as fit and save write it")
    path = parser.parse_args(arguments).folder.absolute()
    if not path.is_dir():
        parser.error(f"folder: expected a folder, got {path}")
    found = layout.checkpoints(path)
    if not found:
        print(f"{path} holds no checkpoint")
    whole, best = 0, None
    for name in reversed(found):
        try:
            record = layout.verify(path, name)
        except ValueError as error:
            print(f"{name}: damaged: {error}")
            continue
        best = record["best_epoch"] if not whole else best
        size = sum(int(np.prod(shape)) * jnp.dtype(dtype).itemsize for dtype, shape, _ in record["arrays"].values())
        marks = [mark for mark, has in (("the last", not whole), ("the best", name == str(best))) if has]
        print(", ".join([f"{name}: whole", f"{len(record['arrays'])} arrays", f"{size / 1e6:.3g} MB", *marks]))
        whole += 1
    for aside in sorted(path.glob(f"*{layout.DAMAGED}")):
        print(f"{aside.name}: set aside by a run that wrote this epoch again")
    return 0 if found and whole == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
