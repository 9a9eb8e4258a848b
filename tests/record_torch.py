"""Records what torch gives for a fixed sample of the cases: ``python -m tests.record_torch``.

It writes ``tests/ops/torch_records.npz``: the descriptions of the cases, and in one array their values and gradients in
float32. The inputs are drawn again from the seeds. The record is read by ``tests/ops/test_torch_records.py``, which
needs no torch.
"""

from pathlib import Path

import numpy as np

from tests.ops.torch_cases import recorded_cases, run_theirs

RECORDS = Path(__file__).parent / "ops" / "torch_records.npz"
CASES_PER_OP = 4
# A case with more numbers than this is left out: the file stays small.
MOST_NUMBERS = 1500


def main() -> None:
    import torch

    descriptions, counts, numbers = [], [], []
    for case in recorded_cases(CASES_PER_OP):
        results = run_theirs(case)
        flat = np.concatenate([r.ravel() for r in results])
        if flat.size <= MOST_NUMBERS:
            descriptions.append(case.to_json())
            counts.append(flat.size)
            numbers.append(flat.astype(np.float32))
    np.savez_compressed(
        RECORDS,
        cases=np.array("\n".join(descriptions)),
        counts=np.array(counts),
        numbers=np.concatenate(numbers),
        torch=np.array(torch.__version__),
    )
    print(f"{len(descriptions)} cases of torch {torch.__version__}: {RECORDS.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
