"""What an error says may be the matter: a prefix, an auxiliary head, another number of classes."""

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.weights import WeightsError, from_torch, to_torch
from tests.nets import ready


def net(classes=3, aux=False):
    row = jc.serial(features=jc.serial(jc.Conv(4, 1), jc.BatchNorm()), pool=jc.GlobalAvgPool(), fc=jc.Dense(classes))
    return jc.auxiliary(row, aux1=("pool", jc.serial(fc2=jc.Dense(classes)))) if aux else row


def tensors(*args):
    return to_torch(net(*args), *ready(net(*args), (2, 4, 4, 2))[:2])


def hints(of, source, x=None, **options):
    """Returns the lines of the error that say what may be the matter."""
    with pytest.raises(WeightsError) as raised:
        from_torch(of, source, x, **options)
    return [line.removeprefix("hint: ") for line in str(raised.value).splitlines() if line.startswith("hint: ")]


def under(prefix, found):
    return {prefix + name: tensor for name, tensor in found.items()}


# --- Prefixes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.model.", "model.features."])
def test_a_prefix_of_all_names_is_named_and_helps(prefix):
    found = under(prefix, tensors())
    [line] = hints(net(), found)
    rename = f'rename={{"{prefix}": ""}}'
    assert line == f"all names begin with {prefix!r}: give {rename}"
    params, _ = from_torch(net(), found, rename=eval(rename.removeprefix("rename=")))
    assert set(params) == {"features", "fc"}


def test_a_prefix_is_named_where_the_rest_differs_a_little():
    found = under("module.", {**tensors(), "ema": np.ones(1)})
    assert len(hints(net(), found)) == 1


def test_no_prefix_is_named_where_there_is_none():
    found = tensors()
    assert hints(net(), {**under("module.", found), "fc.bias": found["fc.bias"]}) == []
    assert hints(net(), under("module.", {"a.weight": np.ones(2), "b.weight": np.ones(2)})) == []
    assert hints(net(), {}) == []


# --- Auxiliary heads --------------------------------------------------------------------------------------------------


def test_an_auxiliary_head_that_the_net_has_not():
    [line] = hints(net(), tensors(3, True))
    assert line.endswith('make the net with aux_logits=True, or give rename={"aux1.": None}')
    params, _ = from_torch(net(), tensors(3, True), rename={"aux1.": None})
    assert set(params) == {"features", "fc"}


def test_an_auxiliary_head_that_the_tensors_have_not():
    [line] = hints(net(3, True), tensors())
    assert line.endswith("make the net with aux_logits=False")


@pytest.mark.parametrize(
    ("make", "option", "heads"),
    [
        (lambda on: jc.models.googlenet(2, aux_logits=on, width=0.1), "aux_logits", '"aux1.": None, "aux2.": None'),
        (lambda on: jc.models.inception_v3(2, aux_logits=on, width=0.1), "aux_logits", '"AuxLogits.": None'),
        (lambda on: jc.models.fcn_resnet50(2, aux_loss=on), "aux_loss", '"aux_classifier.": None'),
    ],
    ids=["googlenet", "inception_v3", "fcn_resnet50"],
)
def test_the_heads_of_the_models_are_known(make, option, heads):
    def shaped(net):
        x = (1, 299, 299, 3) if option == "aux_logits" else (1, 32, 32, 3)
        params, state = jax.eval_shape(lambda key: net.init(key, x), jax.random.key(0))
        return to_torch(net, *jax.tree.map(lambda s: np.broadcast_to(np.float32(1), s.shape), (params, state)))

    [line] = hints(make(False), shaped(make(True)))
    assert line.endswith(f"make the net with {option}=True, or give rename={{{heads}}}")
    [line] = hints(make(True), shaped(make(False)))
    assert line.endswith(f"make the net with {option}=False")


# --- Another number of classes ----------------------------------------------------------------------------------------


CLASSES = (
    "for another number of classes fill a net of as many as the tensors have, then give it this net's fresh head: "
)


@pytest.mark.parametrize("x", [None, (2, 4, 4, 2)], ids=["without x", "with x"])
def test_the_recipe_for_another_number_of_classes(x):
    [line] = hints(net(3), tensors(5), x)
    assert line == CLASSES + 'params["fc"] = net.init(key, x)[0]["fc"]'
    assert hints(net(3, True), tensors(5, True), x) == [line]
    [dropped] = hints(net(3), tensors(5), x, rename={"fc.": None})
    assert dropped == line


def test_the_recipe_works():
    x = np.ones((2, 4, 4, 2), np.float32)
    params, state = from_torch(net(5), tensors(5))
    fresh = net(3).init(jax.random.key(0), x)[0]
    params["fc"] = fresh["fc"]
    assert net(3).apply(params, state, x)[0].shape == (2, 3)


def test_a_head_deep_inside_is_named_by_its_path():
    def vgg(classes):
        return jc.serial(
            features=jc.Conv(2), classifier=jc.serial(jc.Flatten(channels_first=True), jc.Dense(4), jc.Dense(classes))
        )

    found = to_torch(vgg(5), *ready(vgg(5), (1, 4, 4, 1))[:2])
    [line] = hints(vgg(3), found)
    assert line == CLASSES + 'params["classifier"]["2"] = net.init(key, x)[0]["classifier"]["2"]'


def test_no_recipe_where_it_would_not_help():
    found = tensors()
    assert hints(net(), {**found, "features.0.bias": np.ones(5)}) == []
    assert hints(net(), {**found, "fc.weight": np.ones((5, 4))}) == []
    assert hints(net(), {**found, "fc.weight": np.ones((5, 4)), "fc.bias": np.ones(6)}) == []
    assert hints(net(), {**found, "fc.weight": np.ones((5, 9)), "fc.bias": np.ones(5)}, (2, 4, 4, 2)) == []
    assert hints(net(), {name: a for name, a in found.items() if name.startswith("fc")}) == []
    assert hints(jc.Dense(3), {"weight": np.ones((5, 4)), "bias": np.ones(5)}) == []


# --- Flattening -------------------------------------------------------------------------------------------------------


def flat(channels_first, pool=jax.nn.relu):
    return jc.serial(jc.Conv(4, 1), pool, jc.Flatten(channels_first=channels_first), jax.nn.relu, jc.Dense(3))


def test_a_flatten_of_another_order_is_warned_of():
    params, state, _ = ready(flat(True), (1, 2, 2, 3))
    found = to_torch(flat(True), params, state)
    from_torch(flat(True), found)
    for call in (lambda: from_torch(flat(False), found), lambda: to_torch(flat(False), params, state)):
        with pytest.warns(
            UserWarning, match=r"the rows of 4 .* behind 2, which must be Flatten\(channels_first=True\)"
        ):
            call()


def test_a_flatten_of_one_place_is_not_warned_of():
    net = flat(False, jc.AvgPool(2))
    from_torch(net, to_torch(net, *ready(net, (1, 2, 2, 3))[:2]))
    net = jc.serial(jc.Flatten(), jc.Dense(3))
    from_torch(net, to_torch(net, *ready(net, (1, 1, 1, 3))[:2]))


# --- Averages beside a counter or another copy ------------------------------------------------------------------------


def test_an_averaged_model_is_read_with_its_counter():
    found = tensors()
    averaged = {"n_averaged": np.int64(7), **under("module.", found)}
    for source in (averaged, {"step": 3, "ema": averaged}, {"n_averaged": np.int64(7), **found}):
        params, state = from_torch(net(), source)
        jax.tree.map(np.testing.assert_array_equal, (params, state), from_torch(net(), found))


@pytest.mark.torch
def test_an_averaged_model_of_torch():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    averaged = torch.optim.swa_utils.AveragedModel(module)
    averaged.update_parameters(module)
    ours = jc.serial(jc.Conv(3, 3), jc.BatchNorm())
    found, wanted = from_torch(ours, averaged.state_dict()), from_torch(ours, module.state_dict())
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize(
    ("source", "rename"),
    [
        (lambda found: {"initted": np.ones(()), **under("ema_model.", found)}, '{"ema_model.": "", "initted": None}'),
        (
            lambda found: {**under("ema_model.", found), "step": np.ones(()), **under("online_model.", found)},
            '{"ema_model.": "", "step": None, "online_model.": None}',
        ),
        (lambda found: {"loss.w": np.ones(3), **under("net.ema.", found)}, '{"net.ema.": "", "loss.": None}'),
    ],
)
def test_a_copy_beside_something_else_is_named_and_helps(source, rename):
    given = source(tensors())
    [line] = hints(net(), given)
    assert f"give rename={rename}" in line
    found, wanted = from_torch(net(), given, rename=eval(rename)), from_torch(net(), tensors())
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_no_copy_is_named_where_something_is_missing():
    found = tensors()
    assert (
        hints(net(), {"step": np.ones(()), **under("ema.", {n: a for n, a in found.items() if n != "fc.bias"})}) == []
    )


def test_an_instance_norm_without_scale_and_bias():
    ours = jc.serial(jc.Conv(2), jc.InstanceNorm())
    found = {"0.weight": np.ones((2, 3, 3, 3), np.float32), "0.bias": np.ones(2, np.float32)}
    [line] = hints(ours, found)
    assert "give InstanceNorm(scale=False, bias=False)" in line
    from_torch(jc.serial(jc.Conv(2), jc.InstanceNorm(scale=False, bias=False)), found)
