"""The table of a network: its text, its HTML, and counts that are true."""

import math
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings

import jaxconv as jc
from tests.nets import Pass, Shift, networks


def lenet5():
    """LeCun et al., 1998, with max pools; every map of C3 sees all of S2."""
    return jc.serial(
        c1=jc.Conv(6, 5, padding=2),
        relu1=jax.nn.relu,
        s2=jc.MaxPool(2),
        c3=jc.Conv(16, 5, padding="VALID"),
        relu3=jax.nn.relu,
        s4=jc.MaxPool(2),
        flatten=jc.Flatten(),
        c5=jc.Dense(120),
        f6=jc.Dense(84),
        output=jc.Dense(10),
    )


# --- Counts -----------------------------------------------------------------------------------------------------------


def test_lenet5_by_hand():
    table = jc.summary(lenet5(), (1, 28, 28, 1))
    counts = {row.path: (row.parameters, row.macs) for row in table.rows}
    assert counts["c1"] == (6 * (25 + 1), 28 * 28 * 6 * 25)
    assert counts["c3"] == (16 * (6 * 25 + 1), 10 * 10 * 16 * 6 * 25)
    assert counts["c5"] == (120 * (400 + 1), 120 * 400)
    assert counts["f6"] == (84 * 121, 84 * 120)
    assert counts["output"] == (850, 840)
    assert all(counts[path] == (0, 0) for path in ("relu1", "s2", "relu3", "s4", "flatten"))
    assert table.parameters == 61706
    assert table.macs == 416520
    assert table.state_size == 0


def test_counts_of_each_layer_with_a_kernel():
    batch = 3
    cases = [
        (jc.Conv(8, (3, 2), stride=2, groups=2), (batch, 7, 9, 4), batch * 4 * 5 * 8 * 3 * 2 * 2),
        (jc.ConvTranspose(8, 3, stride=2, groups=2), (batch, 4, 5, 6), batch * 4 * 5 * 6 * 9 * 4),
        (jc.ConvLocal(4, 2), (batch, 4, 5, 3), batch * 3 * 4 * 4 * 4 * 3),
        (jc.Dense(7), (batch, 5, 2), batch * 5 * 2 * 7),
        (jc.BatchNorm(), (batch, 5), 0),
        (jc.MaxPool(2), (batch, 4, 4, 2), 0),
    ]
    for layer, shape, macs in cases:
        assert jc.summary(layer, shape).macs == macs, layer


def test_macs_count_the_batch():
    one, many = (jc.summary(lenet5(), (n, 28, 28, 1)) for n in (1, 8))
    assert many.macs == 8 * one.macs
    assert many.parameters == one.parameters


@pytest.mark.parametrize(
    "wrap",
    [jc.serial, jc.remat, jc.mixed_precision, jc.residual, jc.gate, lambda layer: jc.serial(jc.inline(layer))],
    ids=["serial", "remat", "mixed_precision", "residual", "gate", "inline"],
)
@pytest.mark.parametrize("body", [jc.Conv(3), jc.serial(jc.Conv(3), jc.BatchNorm())], ids=["a leaf", "a composite"])
def test_wrappers_count_what_they_wrap(wrap, body):
    alone, wrapped = jc.summary(body, (2, 8, 8, 3)), jc.summary(wrap(body), (2, 8, 8, 3))
    assert (wrapped.parameters, wrapped.state_size, wrapped.macs) == (alone.parameters, alone.state_size, alone.macs)
    assert [row.layer for row in wrapped.rows] == [row.layer for row in alone.rows]


def test_repeat_counts_each_iteration():
    body = jc.serial(conv=jc.Conv(3), bn=jc.BatchNorm())
    alone, repeated = jc.summary(body, (2, 8, 8, 3)), jc.summary(jc.repeat(body, 4), (2, 8, 8, 3))
    assert (repeated.parameters, repeated.state_size, repeated.macs) == tuple(
        4 * n for n in (alone.parameters, alone.state_size, alone.macs)
    )
    assert [row.path for row in repeated.rows] == ["conv", "bn"]
    nested = jc.summary(jc.repeat(jc.serial(inner=jc.repeat(jc.Conv(3), 2)), 4), (2, 8, 8, 3))
    assert nested.parameters == 8 * (27 + 1) * 3


def test_how_often_a_layer_is_repeated_is_shown():
    nested = jc.repeat(jc.serial(inner=jc.repeat(jc.Conv(3), 2), act=jax.nn.relu), 4)
    table = jc.summary(jc.serial(stem=jc.Conv(3), body=jc.remat(nested), one=jc.repeat(jc.Conv(3), 1)), (1, 8, 8, 3))
    lines = [line.split()[:3] for line in str(table).splitlines()[2:6]]
    assert lines == [
        ["stem", "Conv", "(1,"],
        ["body.inner", "Conv", "x8"],
        ["body.act", "relu", "x4"],
        ["one", "Conv", "(1,"],
    ]
    assert [row.parameters for row in table.rows] == [84, 8 * 84, 0, 84]
    assert table.parameters == 10 * 84
    assert "<td>Conv x8</td>" in table._repr_html_()


def leaf_size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@given(networks())
@settings(max_examples=40)
def test_totals_are_those_of_the_arrays(case):
    net, shape = case
    params, state = jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(0))
    table = jc.summary(net, shape)
    assert table.parameters == leaf_size(params)
    assert table.state_size == leaf_size(state)
    assert table.input.shape == shape
    str(table)
    ElementTree.fromstring(table._repr_html_())


def products(jaxpr, times=1):
    """The multiply-adds of the matrix products and convolutions in a program."""
    total = 0
    for eqn in jaxpr.eqns:
        repeats = times * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += products(inner, repeats)
        out = math.prod(eqn.outvars[0].aval.shape)
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += repeats * out * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        elif eqn.primitive.name == "jaxconv_conv":
            assert eqn.params["role"] == "output"
            total += repeats * out * math.prod(eqn.invars[1].aval.shape[:-1])
    return total


MULTIPLYING = ("conv", "local", "pool", "average", "pointwise", "noise", "pad")
COMPOSED = (*MULTIPLYING, "residual", "concat", "gate", "repeat", "remat", "split", "squeeze", "mixed")


@given(networks(COMPOSED))
@settings(max_examples=40)
def test_macs_are_those_of_the_program(case):
    net, shape = case
    params, state = jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(0))
    program = jax.make_jaxpr(lambda p, s, x: net.apply(p, s, x))(
        params, state, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    assert jc.summary(net, shape).macs == products(program.jaxpr)


# --- Text -------------------------------------------------------------------------------------------------------------


def test_the_table_in_a_terminal():
    net = jc.serial(
        stem=jc.Conv(8, 5, stride=2),
        block=jc.residual(jc.serial(conv=jc.Conv(8, bias=False), bn=jc.BatchNorm(), act=jax.nn.relu)),
        up=jc.ConvTranspose(2, 4, stride=2),
        mystery=Shift(),
        head=jc.serial(jc.GlobalAvgPool(), jc.Dense(1000)),
    )
    text = """\
path        layer          output          params     MACs  receptive field
---------------------------------------------------------------------------
stem        Conv           (2, 16, 16, 8)     608  307,200  5 / 2
block.conv  Conv           (2, 16, 16, 8)     576  294,912  9 / 2
block.bn    BatchNorm      (2, 16, 16, 8)      16           9 / 2
block.act   relu           (2, 16, 16, 8)                   9 / 2
up          ConvTranspose  (2, 32, 32, 2)     258  131,072  ~12 / 1
mystery     Shift          (2, 32, 32, 2)       2        ?  ?
head.0      GlobalAvgPool  (2, 2)                           ?
head.1      Dense          (2, 1000)        3,000    4,000  ?
---------------------------------------------------------------------------
4,460 parameters, 17 values of state, 737,184 multiply-adds on input """
    text += "(2, 32, 32, 3); the multiply-adds of 1 layer are unknown"
    table = jc.summary(net, (2, 32, 32, 3))
    assert str(table) == text
    assert repr(table) == text


def test_axes_that_differ_are_shown_each():
    table = jc.summary(jc.serial(jc.Conv(1, (3, 5), stride=(1, 2)), jc.Resize(factor=2)), (1, 9, 9, 1))
    fields = [line.split("  ")[-1] for line in str(table).splitlines()[2:4]]
    assert fields == ["3 / 1 x 5 / 2", "~4.5 / 0.5 x ~8 / 1"]


def test_trees_and_nothing_at_all():
    shown = str(jc.summary(jc.serial(jc.parallel(jc.Conv(2), jc.Flatten())), (1, 4, 4, 3)))
    assert "(1, 4, 4, 3)" in shown
    both = jc.summary(jc.Fn(lambda xs: xs[0]), [(1, 4), (2, 3)])
    assert str(both).splitlines()[-1].endswith("on input (1, 4) (2, 3)")
    assert "(1, 4)" in str(both).splitlines()[2]
    assert str(jc.summary(jc.serial(), (1, 4))).splitlines()[-1] == ("0 parameters, 0 multiply-adds on input (1, 4)")


# --- HTML -------------------------------------------------------------------------------------------------------------


def test_the_table_in_a_notebook_has_the_same_cells():
    table = jc.summary(lenet5(), (1, 28, 28, 1))
    root = ElementTree.fromstring(table._repr_html_())
    assert root.tag == "table"
    assert [th.text for th in root.iter("th")] == ["path", "layer", "output", "params", "MACs", "receptive field"]
    rows = [[td.text or "" for td in tr.findall("td")] for tr in root.find("tbody")]
    assert len(rows) == len(table.rows) == 10
    assert rows[0] == ["c1", "Conv", "(1, 28, 28, 6)", "156", "117,600", "5 / 1"]
    assert rows[1] == ["relu1", "relu", "(1, 28, 28, 6)", "", "", "5 / 1"]
    assert root.find("caption").text == str(table).splitlines()[-1]


def test_html_is_escaped():
    net = jc.serial(**{"<b>&\"'": jc.serial(lambda x: x)})
    text = jc.summary(net, (1, 4))._repr_html_()
    assert "<b>" not in text
    assert "<lambda>" not in text
    cells = [td.text for td in ElementTree.fromstring(text).iter("td")]
    assert cells[:2] == ["<b>&\"'.0", "<lambda>"]


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_rows_are_for_code():
    table = jc.summary(lenet5(), jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))
    assert [row.path for row in table.rows] == [name for name, _ in lenet5().children]
    row = table.rows[3]
    assert row.layer == jc.Conv(16, 5, padding="VALID")
    assert (row.input.shape, row.output.shape) == ((1, 14, 14, 6), (1, 10, 10, 16))
    assert row.receptive_field[0] == (14, 2, -2)


def test_a_layer_that_does_not_tell_its_macs_is_not_counted():
    table = jc.summary(jc.serial(Pass(), jc.Dense(3), Pass()), (1, 4))
    assert [row.macs for row in table.rows] == [None, 12, None]
    assert table.macs == 12
    assert "12 multiply-adds on input (1, 4); the multiply-adds of 2 layers are unknown" in str(table)


def test_a_wrong_input_raises_with_the_path():
    with pytest.raises(jc.ShapeError, match=r"^c3 \(Conv\): window must be at most the padded input"):
        jc.summary(lenet5(), (1, 8, 8, 1))
