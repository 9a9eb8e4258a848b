"""Records the faces that facenet-pytorch finds: ``python -m tests.record_faces`` writes ``detect/faces.json``.

It needs torch, torchvision and facenet-pytorch; torchvision's compiled operators need not load.
"""

import json
from pathlib import Path

import numpy as np

from experiments.faces import by_facenet_pytorch, group
from experiments.pictures import photograph
from jaxconv.detect import Faces
from tests.record_detectors import detection

RECORD = Path(__file__).parent / "detect" / "faces.json"


def pictures() -> dict[str, np.ndarray]:
    """Returns pictures of odd and even sizes, one of them without faces."""
    astronaut = photograph("astronaut.png")
    return {
        "astronaut": astronaut,
        "group": group(),
        "mirrored": astronaut[3:260, 330:70:-1],
        "coffee": photograph("coffee.png")[100:300, 100:331],
    }


def reference(image: np.ndarray) -> Faces:
    """Returns facenet-pytorch's faces."""
    detection()  # torchvision, with an nms that runs
    return by_facenet_pytorch(np.ascontiguousarray(image))


def main() -> None:
    rows = []
    for name, image in pictures().items():
        found = reference(image)._asdict()
        rows.append(f'"{name}": {json.dumps({key: np.round(a.astype(float), 6).tolist() for key, a in found.items()})}')
    RECORD.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    print(f"{RECORD.name}: {RECORD.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
