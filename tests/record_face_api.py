"""Records what face-api gives in Node: ``python -m tests.record_face_api FOLDER`` writes ``models/face_api.json``.

It needs node, and the folder of the npm package @vladmandic/face-api.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RECORD = Path(__file__).parent / "models" / "face_api.json"
# The network, and the file of its weights, by our name.
NETS = {
    "face_descriptor": ("FaceRecognitionNet", "face_recognition_model"),
    "face_landmarks": ("FaceLandmark68Net", "face_landmark_68_model"),
}
SCRIPT = """
import fs from "fs";
import util from "util";
globalThis.nodeUtil = util;
const faceapi = await import("./face-api.mjs");
const [net, folder, name, side] = process.argv.slice(2);
const tf = faceapi.tf;
await tf.setBackend("cpu");
const [group] = JSON.parse(fs.readFileSync(`${folder}/model/${name}-weights_manifest.json`));
const data = new Uint8Array(fs.readFileSync(`${folder}/model/${group.paths[0]}`));
const model = new faceapi[net]();
model.loadFromWeightMap(tf.io.decodeWeights(data.buffer, group.weights));
const pixels = new Uint8Array(fs.readFileSync(0)), size = side * side * 3, found = [];
for (let i = 0; i < pixels.length; i += size) {
  const image = tf.tensor3d(Float32Array.from(pixels.subarray(i, i + size)), [+side, +side, 3]);
  found.push(Array.from(await (await model.forward(image)).data()));
}
console.log(JSON.stringify(found));
"""


def images(astronaut: np.ndarray, name: str) -> np.ndarray:
    """Returns the photograph's face, and the same mirrored, as the network takes them."""
    top, left, side = {"face_descriptor": (50, 150, 150), "face_landmarks": (68, 166, 112)}[name]
    face = astronaut[top : top + side, left : left + side]
    return np.stack([face, face[:, ::-1]])


def main(folder: str) -> None:
    from experiments.pictures import photograph

    record = {}
    with tempfile.TemporaryDirectory() as place:
        # Made for browsers, it has no module of Node.
        bundle = (Path(folder) / "dist" / "face-api.esm.js").read_bytes()
        (Path(place) / "face-api.mjs").write_bytes(bundle.replace(b"this.util.", b"globalThis.nodeUtil."))
        (Path(place) / "run.mjs").write_text(SCRIPT)
        for name, (net, file) in NETS.items():
            given = images(photograph("astronaut.png"), name)
            command = ["node", "run.mjs", net, str(Path(folder).resolve()), file, str(given.shape[1])]
            done = subprocess.run(command, cwd=place, input=given.tobytes(), capture_output=True)
            if done.returncode:
                sys.exit(done.stderr.decode()[-1000:])
            record[name] = [[round(v, 6) for v in row] for row in json.loads(done.stdout.decode().splitlines()[-1])]
    RECORD.write_text("{\n" + ",\n".join(f'"{name}": {json.dumps(rows)}' for name, rows in record.items()) + "\n}\n")
    print(f"{RECORD.name}: {RECORD.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1])
