"""Records what TensorFlow.js gives: ``python -m tests.record_tfjs FOLDER`` writes ``interop/tfjs.npz``.

FOLDER is one in which npm has installed the packages of `experiments.tfjs_reference` and @vladmandic/human@3.3.6. The
record has the outputs of the graphs of `tests.interop.tfjs_files`, the first of those of other networks of the package,
and what CenterNet and MoveNet find on photographs.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments import detect, pictures, pose
from experiments.tfjs_reference import run
from tests.interop.tfjs_files import CASES, FIRST, PACKAGED, inputs, ports

RECORD = Path(__file__).parent / "interop" / "tfjs.npz"


def main(folder: Path) -> None:
    record = {}
    with tempfile.TemporaryDirectory() as name:
        for case, make in CASES.items():
            model = make()
            found = run(folder, model.write(Path(name) / case), inputs(model), model.outputs)
            record |= {f"{case}/{output}": array for output, array in found.items()}
    for name in PACKAGED:
        path = folder / "node_modules" / detect.PACKAGE / "models" / f"{name}.json"
        x, outputs = ports(path)
        found = run(folder, path, x, list(outputs))
        record |= {f"{name}/{outputs[node]}": array.reshape(-1)[:FIRST] for node, array in found.items()}
    for command in (detect, pose):
        for photograph in command.PHOTOGRAPHS:
            model = command.weights(folder / "node_modules" / command.PACKAGE)
            found = command.by_tfjs(pictures.photograph(photograph), model, folder)
            name = command.__name__.split(".")[-1]
            record |= {f"{name}/{photograph}/{key}": array for key, array in found.items()}
    np.savez_compressed(RECORD, **record)
    print(f"{RECORD}: {len(record)} arrays, {RECORD.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
