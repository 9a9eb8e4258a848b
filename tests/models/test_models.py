"""The networks' published counts and shapes."""

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc


def test_lenet5_has_the_papers_layers():
    table = jc.summary(jc.models.lenet5(), (2, 28, 28, 1))
    assert table.parameters == 61_706
    maps = [row.output.shape[1:] for row in table.rows if row.path.startswith(("conv", "pool"))]
    assert maps == [(28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16)]


def test_lenet5_takes_images_that_are_32_already():
    assert jc.summary(jc.models.lenet5(padding=0), (1, 32, 32, 1)).parameters == 61_706


@pytest.mark.parametrize(("widths", "convs", "hidden"), [((4,), 1, ()), ((4, 8), 2, (16, 12)), ((4, 8, 8), 3, (5,))])
def test_convnet_has_m_blocks_of_n_convolutions_and_k_hidden_layers(widths, convs, hidden):
    net = jc.models.convnet(7, widths=widths, convs=convs, hidden=hidden, dropout=0.5)
    rows = jc.summary(net, (1, 16, 16, 3)).rows
    kinds = [type(row.layer) for row in rows]
    assert kinds.count(jc.Conv) == kinds.count(jc.BatchNorm) == len(widths) * convs
    assert kinds.count(jc.MaxPool) == len(widths)
    assert kinds.count(jc.Dropout) == kinds.count(jc.Dense) == len(hidden) + 1
    assert [row.output.shape[-1] for row in rows if isinstance(row.layer, jc.Dense)] == [*hidden, 7]


def test_convnet_without_norm_has_biases():
    params, state = jc.models.convnet(widths=(4,), norm=False).init(jax.random.key(0), (1, 8, 8, 1))
    assert set(params["block1"]["conv1"]) == {"kernel", "bias"}
    assert state == {}


def test_convnet_follows_its_gradient_downhill():
    net = jc.models.convnet(2, widths=(4,))
    x = jax.random.normal(jax.random.key(0), (16, 8, 8, 1))
    labels = (x.mean(axis=(1, 2, 3)) > 0).astype(int)
    params, state = net.init(jax.random.key(1), x)

    @jax.jit
    def loss(params):
        logits, _ = net.apply(params, state, x, train=True)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))

    before = loss(params)
    for _ in range(20):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    assert loss(params) < before / 2
