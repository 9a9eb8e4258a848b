"""The rows for every platform, after its own: pools, whose programs need no library."""

from jaxconv.ops.lowering.conditions import always
from jaxconv.ops.lowering.forms import POOLS, Row
from jaxconv.ops.lowering.windows import CHAIN

# Measured on two cores of an AMD EPYC, in results/layers.json of experiments/benchmarks.
ANYWHERE = (
    Row(
        POOLS["doubling_max"],
        lambda p, t: p.taps > CHAIN,
        f"Windows of more than {CHAIN} taps are computed by doubling, in log2(taps) steps.",
    ),
    Row(
        POOLS["separable_max"],
        always,
        "The taps of one axis after another are compared, and the gradient goes to the tap that won.",
    ),
    Row(
        POOLS["xla"],
        lambda p, t: p.role in ("sum", "spread") and p.tiled and any(w.out != 1 for w in p.axes),
        "Windows that do not overlap are summed by XLA's reduce_window, in one pass over all axes.",
    ),
    Row(
        POOLS["separable_sum"],
        always,
        "One axis after another is summed, with fewer additions than XLA's reduce_window where windows overlap.",
    ),
)
