"""Each row of docs/from_peers.md: their call and ours on the same arrays."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from experiments.docs import peers
from tests.ops.compare import assert_close
from tests.ops.draws import uniform

ROWS = peers.rows()


def arrays_of(row):
    """The arrays that the row names: random, variances positive, those called ones of ones."""
    drawn = {name: uniform(i, shape).astype(np.float32) for i, (name, shape) in enumerate(row.arrays.items())}
    return {n: np.ones_like(a) if n == "ones" else a + 1.5 if n == "var" else a for n, a in drawn.items()}


def value_of(statements, names):
    """What the last of the statements gives; the others may bind names."""
    *first, last = statements.split("; ")
    exec("\n".join(first), names)
    return eval(last, names)


def in_scope(arrays, seed=0):
    return {"jc": jc, "jax": jax, "jnp": jnp, "key": jax.random.key(seed)} | arrays


def ours(row, arrays):
    return jax.jit(lambda arrays: value_of(row.ours, in_scope(arrays)))(arrays)


@pytest.fixture(scope="module")
def torch():
    """Arrays to torch's layout, and results back."""
    torch = pytest.importorskip("torch", reason="wants torch")

    def channels_first(name, array):
        kernel = name.rstrip("13") in ("k", "t", "w", "even", "grouped", "depthwise", "t_grouped")
        array = np.moveaxis(array, (-1, -2), (0, 1)) if kernel else np.moveaxis(array, -1, min(1, array.ndim - 1))
        return torch.tensor(np.ascontiguousarray(array))

    def channels_last(tensor):
        return tensor.movedim(1, -1).numpy() if tensor.ndim > 1 else tensor.numpy()

    def run(row, arrays):
        torch.manual_seed(0)
        tensors = {name: channels_first(name, array) for name, array in arrays.items()}
        return jax.tree.map(channels_last, value_of(row.theirs, {"torch": torch, "F": torch.nn.functional} | tensors))

    return run


def in_jax(names, jit=jax.jit):
    def run(row, arrays):
        return jit(lambda arrays: value_of(row.theirs, names() | in_scope(arrays, seed=1)))(arrays)

    return run


@pytest.fixture(scope="module")
def flax():
    pytest.importorskip("flax", reason="wants flax")
    import flax.linen as nn
    from flax import nnx

    return in_jax(lambda: {"nn": nn, "nnx": nnx, "rngs": nnx.Rngs(0)})


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        keras = pytest.importorskip("keras", reason="wants keras")
    assert keras.backend.backend() == "jax"
    keras.utils.set_random_seed(0)
    return in_jax(lambda: {"keras": keras}, jit=lambda function: function)


@pytest.fixture(scope="module")
def lax():
    return in_jax(dict)


RUNNERS = {"torch": "torch", "flax": "flax", "keras": "keras", "jax": "lax"}
# keras takes seconds to import, and compiles each op by itself.
MARKS = {"torch": [pytest.mark.torch], "keras": [pytest.mark.slow]}
PARAMS = [pytest.param(row, id=row.theirs, marks=MARKS.get(row.peer, [])) for row in ROWS]


def assert_same_distribution(got, want):
    """The same values, each as often."""
    (values, times), (wanted, often) = (np.unique(np.asarray(a), return_counts=True) for a in (got, want))
    assert_close(values, wanted)
    assert_close(times / got.size, often / want.size, rtol=0, atol=0.03)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("row", PARAMS)
def test_their_call_is_ours(row, request):
    theirs = request.getfixturevalue(RUNNERS[row.peer])
    arrays = arrays_of(row)
    got, want = jax.tree.leaves(ours(row, arrays)), jax.tree.leaves(theirs(row, arrays))
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        if row.compare == "distribution":
            assert_same_distribution(a, b)
        else:
            assert_close(a, b, rtol=2e-5, atol=2e-5)
            assert len(np.unique(b)) > 1, "a constant compares nothing"


@pytest.mark.parametrize("row", [row for row in ROWS if row.peer == "torch"], ids=lambda row: row.theirs)
def test_our_side_of_a_row_with_torch_runs_without_torch(row):
    assert jax.tree.leaves(jax.eval_shape(lambda arrays: value_of(row.ours, in_scope(arrays)), arrays_of(row)))


def test_the_page_is_that_of_the_table():
    assert peers.PAGE.read_text() == peers.page(), "write it again: python -m experiments.docs.peers"


def test_calls_are_told_apart():
    assert min(len(peers.calls(row)) for row in ROWS) > 0
    (row,) = [row for row in ROWS if row.theirs.startswith("F.max_unpool2d")]
    assert peers.calls(row) == ["torch.nn.functional.max_unpool2d", "torch.nn.functional.max_pool2d"]


# --- Nothing is missing -----------------------------------------------------------------------------------------------


def missing(prefix, module, wanted):
    """What of a module has neither a row nor a line in the table of those without one; 1-D to 3-D count as one."""
    spoken = {call for row in ROWS for call in re.findall(rf"(?<![\w.]){re.escape(prefix)}\.(\w+)(?=\()", row.theirs)}
    spoken |= {call.removeprefix(f"{prefix}.") for call in peers.without() if call.startswith(f"{prefix}.")}
    names = {n for n in dir(module) if not n.startswith("_") and callable(getattr(module, n))}
    # An alias has the name of what it is.
    named = {n: getattr(getattr(module, n), "__name__", n) for n in names if re.search(wanted, n)}
    known = {re.sub(r"[123][dD]", "", n) for n in spoken}
    return sorted(n for n, real in named.items() if not {re.sub(r"[123][dD]", "", m) for m in (n, real)} & known)


WANTED = "(?i)conv(?!ert)|pool|norm|^pad|interpolate|shuffle|drop|^linear$|^Dense$|upsampl|^resiz|ZeroPad"


@pytest.mark.torch
def test_no_call_of_torch_is_missing():
    functional = pytest.importorskip("torch.nn.functional", reason="wants torch")
    assert [n for n in missing("F", functional, WANTED) if not n.endswith("_with_indices")] == []


def test_no_call_of_flax_is_missing():
    pytest.importorskip("flax", reason="wants flax")
    import flax.linen as nn
    from flax import nnx

    assert missing("nn", nn, WANTED) == []
    assert missing("nnx", nnx, WANTED) == []


@pytest.mark.slow
def test_no_call_of_keras_is_missing(keras):
    import keras

    assert missing("keras.ops", keras.ops, WANTED) == []
    assert missing("keras.layers", keras.layers, WANTED) == []
