"""The recipes of docs/patch.md: each library's network inside the switch and outside."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxconv as jc
from tests.ops.compare import assert_close

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "patch.md").read_text()
SECTIONS = (section.split("\n", 1) for section in PAGE.split("\n## ")[1:])
RECIPES = {title: code for title, text in SECTIONS for code in re.findall(r"```python\n(.*?)```", text, flags=re.S)}
NEEDS = {"Equinox": "equinox", "Haiku": "haiku", "Flax linen": "flax", "Flax NNX": "flax"}


def test_each_library_has_its_recipe():
    assert list(RECIPES) == ["Equinox", "Haiku", "Flax linen", "Flax NNX", "Keras on JAX"]


def text_of(step, arguments):
    """The trace, in which a primitive of jaxconv's or lax's is named once for each use."""
    net, x = arguments
    if type(net).__name__ != "Net":  # Equinox's modules and dicts are pytrees
        return str(jax.make_jaxpr(lambda x: jax.tree.leaves(step(net, x)))(x))
    from flax import nnx

    graph, params = nnx.split(net)
    return str(jax.make_jaxpr(lambda params, x: jax.tree.leaves(step(nnx.merge(graph, params), x)))(params, x))


@pytest.mark.parametrize("library", NEEDS)
def test_a_network_and_its_gradient_inside_the_switch_and_outside(library):
    pytest.importorskip(NEEDS[library], reason=f"wants {library}")
    names: dict = {}
    exec(RECIPES[library], names)
    step, arguments = names["step"], names["arguments"]
    ours = jax.tree.leaves((names["loss"], names["grads"]))
    plain = jax.tree.leaves(step(*arguments))
    assert len(ours) == len(plain) > 5
    for got, want in zip(ours, plain, strict=True):
        assert got.dtype == want.dtype
        assert_close(got, want)
    theirs = ("conv_general_dilated", "reduce_window", "select_and_scatter")
    found = text_of(step, arguments)
    assert all(name in found for name in theirs)
    assert "jaxconv" not in found
    with jc.patch_lax():
        found = text_of(step, arguments)
    assert found.count("jaxconv_conv") >= 6  # three layers with one gradient at least
    assert "jaxconv_best" in found
    assert not [name for name in theirs if name in found]


KERAS = """
import jax
plain = build()
assert net is not plain
losses = plain.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
np.testing.assert_allclose(history.history["loss"], losses, rtol=1e-5)
for got, want in zip(net.get_weights(), plain.get_weights(), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
np.testing.assert_allclose(scores, plain.predict(x, verbose=0), rtol=1e-4, atol=1e-5)

from jax import lax
from jaxconv.ops.lowering.pool import best_p
from jaxconv.ops.lowering.primitive import conv_p

THEIRS = lax.conv_general_dilated_p, lax.reduce_window_max_p, lax.reduce_window_sum_p, lax.select_and_scatter_add_p
uses = dict.fromkeys((*THEIRS, conv_p, best_p), 0)

def counted(primitive):
    with_trace = primitive.bind_with_trace
    def bind_with_trace(*args):
        uses[primitive] += 1
        return with_trace(*args)
    primitive.bind_with_trace = bind_with_trace

for primitive in uses:
    counted(primitive)

def fit():
    uses.update(dict.fromkeys(uses, 0))
    jax.clear_caches()  # the pools are jitted functions, which are traced once for each type
    build().fit(x, y, batch_size=8, epochs=1, verbose=0)
    return dict(uses)

found = fit()
assert found[conv_p] == found[best_p] == 0
assert min(found[primitive] for primitive in THEIRS) > 0, found
with jc.patch_lax():
    found = fit()
assert found[conv_p] >= 6, found  # three layers with one gradient at least
assert found[best_p] > 0
assert found[lax.select_and_scatter_add_p] == 0
print("equal")
"""


@pytest.mark.slow
def test_keras_trains_inside_the_switch_as_outside():
    """In a process of its own: Keras reads its backend when it is imported."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("wants keras")
    code = RECIPES["Keras on JAX"] + KERAS
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["equal"], done.stderr[-3000:]
