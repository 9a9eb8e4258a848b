"""Torch's names and layouts: round trips of any network, and every way in which tensors may not fit."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv.weights import WeightsError, from_torch, to_torch
from tests.nets import ALL, Shift, networks, normal, ready

EXACT = jc.Fn(functools.partial(jax.nn.gelu, approximate=False))
NET = jc.serial(
    features=jc.serial(jc.Conv(6, 3, groups=2), jc.BatchNorm(), jax.nn.relu, jc.MaxPool(2)),
    up=jc.ConvTranspose(8, 2, stride=2, groups=2),
    block=jc.residual(jc.serial(norm=jc.LayerNorm(), layer_scale=jc.LayerScale())),
    slope=jc.PReLU(),
    flatten=jc.Flatten(channels_first=True),
    fc=jc.Dense(3),
)
SHAPE = (2, 4, 4, 4)
SHAPES = {
    "features.0.weight": (6, 2, 3, 3),
    "features.0.bias": (6,),
    "features.1.weight": (6,),
    "features.1.bias": (6,),
    "features.1.running_mean": (6,),
    "features.1.running_var": (6,),
    "up.weight": (6, 4, 2, 2),
    "up.bias": (8,),
    "block.norm.weight": (8,),
    "block.norm.bias": (8,),
    "block.layer_scale": (8, 1, 1),
    "slope.weight": (1,),
    "fc.weight": (3, 128),
    "fc.bias": (3,),
}
TENSORS = {name: normal(shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())}
TENSORS["features.1.running_var"] = abs(TENSORS["features.1.running_var"])


def same_trees(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(assert_array_equal, a, b)


@pytest.mark.parametrize("x", [None, SHAPE], ids=["without x", "with x"])
def test_each_kind_of_layer_has_its_rule(x):
    params, state = from_torch(NET, TENSORS, x)
    assert_array_equal(params["features"]["0"]["kernel"], TENSORS["features.0.weight"].transpose(2, 3, 1, 0))
    assert_array_equal(params["up"]["kernel"], TENSORS["up.weight"].transpose(2, 3, 1, 0))
    assert_array_equal(params["fc"]["kernel"], TENSORS["fc.weight"].T)
    assert_array_equal(params["features"]["1"]["scale"], TENSORS["features.1.weight"])
    assert_array_equal(params["block"]["layer_scale"]["scale"], TENSORS["block.layer_scale"][:, 0, 0])
    assert_array_equal(params["slope"]["scale"], TENSORS["slope.weight"])
    assert_array_equal(state["features"]["1"]["mean"], TENSORS["features.1.running_mean"])
    assert_array_equal(state["features"]["1"]["var"], TENSORS["features.1.running_var"])
    wanted = jax.eval_shape(lambda key: NET.init(key, SHAPE), jax.random.key(0))
    assert jax.tree.map(jnp.shape, (params, state)) == jax.tree.map(jnp.shape, wanted)
    NET.apply(params, state, jnp.ones(SHAPE))


def test_to_torch_is_the_inverse():
    tensors = to_torch(NET, *from_torch(NET, TENSORS))
    assert list(tensors) == list(TENSORS)
    for name, tensor in tensors.items():
        assert_array_equal(tensor, TENSORS[name])
        assert tensor.flags["C_CONTIGUOUS"]


@given(networks(ALL))
@settings(max_examples=25)
def test_any_network_comes_back_as_it_was(drawn):
    net, shape = drawn
    # torch's GELU is the exact one, of another there is a warning.
    net = jc.map_layers(net, lambda layer: EXACT if layer == jc.Fn(jax.nn.gelu) else layer)
    params, state, _ = ready(net, shape)
    same_trees(from_torch(net, to_torch(net, params, state), shape), (params, state))


def test_repeated_layers_are_numbered_in_torch():
    net = jc.serial(blocks=jc.repeat(jc.serial(conv=jc.repeat(jc.Conv(2, 1), 2), bn=jc.BatchNorm()), 3))
    params, state, _ = ready(net, (1, 2, 2, 2))
    tensors = to_torch(net, params, state)
    assert [name for name in tensors if name.endswith("conv.1.weight")] == [
        f"blocks.{i}.conv.1.weight" for i in range(3)
    ]
    assert_array_equal(tensors["blocks.2.conv.1.weight"][..., 0, 0], params["blocks"]["conv"]["kernel"][2, 1, 0, 0].T)
    same_trees(from_torch(net, tensors), (params, state))


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32])
def test_types_are_kept(dtype):
    params, state = from_torch(NET, {name: a.astype(dtype) for name, a in TENSORS.items()})
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} == {np.dtype(dtype)}
    assert {tensor.dtype for tensor in to_torch(NET, params, state).values()} == {np.dtype(dtype)}


def test_doubles_follow_jax():
    doubles = {name: a.astype(np.float64) for name, a in TENSORS.items()}
    assert from_torch(NET, doubles)[0]["fc"]["bias"].dtype == jnp.float32
    with jax.enable_x64(True):
        assert from_torch(NET, doubles)[0]["fc"]["bias"].dtype == jnp.float64


# --- What does not fit ------------------------------------------------------------------------------------------------


def without(*names):
    return {name: tensor for name, tensor in TENSORS.items() if name not in names}


def refused(match, tensors, x=None, net=NET, **kwargs):
    with pytest.raises(WeightsError, match=match):
        from_torch(net, tensors, x, **kwargs)


def test_a_missing_tensor_is_named_with_its_shape():
    refused(r"places that no tensor fills:\n  fc.weight \(3, \?\)$", without("fc.weight"))
    refused(r"places that no tensor fills:\n  fc.weight \(3, 128\)$", without("fc.weight"), SHAPE)


def test_a_tensor_without_a_place_is_named_with_its_shape():
    refused(
        r"tensors that have no place in the net:\n  head.extra \(2, 5\)$", {**TENSORS, "head.extra": np.ones((2, 5))}
    )


def test_a_renamed_tensor_is_listed_on_both_sides_with_the_nearest():
    tensors = {**without("features.0.weight"), "features.0.wieght": TENSORS["features.0.weight"]}
    refused(
        r"no place in the net:\n  features.0.wieght \(6, 2, 3, 3\) \(nearest: features.0.weight\)\n"
        r"places that no tensor fills:\n  features.0.weight \(6, \?, 3, 3\) \(nearest: features.0.wieght\)",
        tensors,
    )


@pytest.mark.parametrize(
    ("name", "shape", "wanted", "only_with_x"),
    [
        ("features.0.weight", (6, 2, 5, 5), r"\(6, 2, 3, 3\)", False),
        ("features.0.weight", (6, 3, 3, 3), r"\(6, 2, 3, 3\)", True),
        ("features.0.weight", (6,), r"\(6, 2, 3, 3\)", False),
        ("features.0.bias", (5,), r"\(6,\)", False),
        ("fc.weight", (3, 127), r"\(3, 128\)", True),
        ("fc.weight", (128, 3), r"\(3, 128\)", False),
        ("up.weight", (6, 3, 2, 2), r"\(6, 4, 2, 2\)", False),
        ("features.1.running_mean", (5,), r"\(6,\)", True),
        ("block.layer_scale", (8,), r"\(8, 1, 1\)", False),
        ("block.layer_scale", (8, 1, 2), r"\(8, 1, 1\)", False),
        ("block.layer_scale", (7, 1, 1), r"\(8, 1, 1\)", True),
    ],
)
def test_a_wrong_shape_is_named(name, shape, wanted, only_with_x):
    tensors = {**TENSORS, name: np.ones(shape, np.float32)}
    got = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    refused(rf"tensors of the wrong shape:\n  {name} must have shape {wanted}, got \({got}\)$", tensors, SHAPE)
    if not only_with_x:
        refused(rf"tensors of the wrong shape:\n  {name} must have shape", tensors)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused(bad):
    fc = TENSORS["fc.weight"].copy()
    fc[1, 2] = bad
    refused("^fc.weight has values that are not finite$", {**TENSORS, "fc.weight": fc})


def test_many_problems_are_cut_short():
    with pytest.raises(WeightsError) as raised:
        from_torch(NET, {f"layer{i}.weight": np.ones(1) for i in range(100)})
    assert "and 80 more" in str(raised.value)


def test_the_source_is_copied():
    # jax shares aligned memory, which an array has or has not by chance.
    for size in [64] * 20 + [4096] * 20:
        tensors = {"weight": np.ones(size, np.float32), "bias": np.ones(size, np.float32)}
        params, _ = from_torch(jc.LayerNorm(), tensors)
        for array in tensors.values():
            array[:] = 7
        assert_array_equal(params["scale"], 1)
        assert_array_equal(params["bias"], 1)
        back = to_torch(jc.LayerNorm(), params, {})
        back["weight"][:] = 7
        assert_array_equal(params["scale"], 1)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((3, 128), 1e300), "^fc.weight has values that are not finite as float32$"),
        (np.full((3, 128), 2**40), "^fc.weight must be of a floating-point type, got int64$"),
        (np.ones((3, 128), bool), "^fc.weight must be of a floating-point type, got bool$"),
        (np.ones((3, 128), np.complex64), "^fc.weight must be of a floating-point type, got complex64$"),
    ],
)
def test_numbers_that_do_not_fit_the_type_are_refused(bad, message):
    refused(message, {**TENSORS, "fc.weight": bad})


def test_integers_that_do_not_fit_are_refused():
    class Counts:
        def init(self, key, x):
            return {}, {"n": jnp.zeros((), int)}

        def apply(self, params, state, x, *, train=False, key=None):
            return x, state

    refused("^n has values out of the range of int32", {"n": np.array(2**40)}, (1, 2), Counts())
    assert from_torch(Counts(), {"n": np.array(2**30)}, (1, 2))[1]["n"] == 2**30


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("features.1.weight", (5, 6), r"\(\?,\)"),
        ("features.1.running_mean", (1,), r"\(6,\)"),
        ("block.norm.bias", (5,), r"\(8,\)"),
        ("slope.weight", (), r"\(1,\)"),
        ("slope.weight", (8,), r"\(1,\)"),
    ],
)
def test_the_arrays_of_a_norm_are_of_one_length(name, shape, wanted):
    refused(f"{name} must have shape {wanted}, got", {**TENSORS, name: np.ones(shape, np.float32)})
    params, state = from_torch(NET, TENSORS)
    path = {"weight": "scale", "running_mean": "mean"}
    *above, last = name.split(".")
    tree = state if last == "running_mean" else params
    node = tree
    for part in above:
        node = node[part]
    node[path.get(last, last)] = jnp.ones(shape)
    with pytest.raises(WeightsError, match=f"must have shape {wanted}, got"):
        to_torch(NET, params, state)


def test_a_missing_array_of_a_norm_is_named_with_its_shape():
    refused(r"that no tensor fills:\n  features.1.running_mean \(6,\)$", without("features.1.running_mean"))
    refused(r"that no tensor fills:\n  slope.weight \(1,\)$", without("slope.weight"))


REPEATED = jc.serial(jc.repeat(jc.Dense(4), 2))
COPIES = {f"0.{i}.{name}": np.ones(shape) for i in range(2) for name, shape in (("weight", (4, 4)), ("bias", (4,)))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.1.weight": np.ones((4, 3))}, r"0.1.weight must have shape \(4, 4\), got \(4, 3\)"),
        ({"0.1.bias": np.ones(4, np.float16)}, "0.1.bias must be of type float32, as 0.0.bias is, got float16"),
        ({3: np.ones(4)}, "source must have names that are strings, got 3"),
        ({"0.1.bias": None}, "'0.1.bias' has the type object, which is not"),
        ({"0.1.bias": [[1, 2], 3]}, "'0.1.bias' must be a dense array that NumPy can hold, got list"),
        ({"0.1.bias": "text"}, "'0.1.bias' has the type <U4, which is not"),
    ],
)
def test_what_is_no_state_dict(change, message):
    refused(message, {**COPIES, **change}, net=REPEATED)


def test_byte_order_does_not_matter():
    same_trees(from_torch(NET, {name: a.astype(">f4") for name, a in TENSORS.items()}), from_torch(NET, TENSORS))


@pytest.mark.parametrize("source", [list(TENSORS.items()), 3, None])
def test_a_source_of_another_kind_is_refused(source):
    refused(f"source must be a path or a mapping .* got a {type(source).__name__}", source)


def test_a_checkpoint_in_memory_is_read_as_one_in_a_file():
    wanted = from_torch(NET, TENSORS)
    other = {name: np.zeros_like(a) for name, a in TENSORS.items()}
    same_trees(from_torch(NET, {"state_dict": TENSORS, "epoch": 3}), wanted)
    same_trees(from_torch(NET, {"state_dict": TENSORS, "ema": other}, key="state_dict"), wanted)
    refused("'state_dict' .* key='state_dict' and key='ema'$", {"state_dict": TENSORS, "ema": other})
    refused(r"it has 'best' \(dict\), 'epoch' \(int\), but .* none of them", {**TENSORS, "best": {}, "epoch": 3})
    refused(r"no place in the net:\n  step \(\)$", {**TENSORS, "step": 7})
    refused("'step' has the type <U1, which is not", {**TENSORS, "step": "x"})
    with pytest.raises(WeightsError, match="is needed under 'ema': none of them"):
        from_torch(NET, TENSORS, key="ema")


def test_errors_of_a_file_begin_with_its_name(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    jc.weights.write(path, without("fc.weight"))
    for source in (path, str(path)):
        refused(rf"^{re.escape(str(path))}: source does not fit the net\nplaces that no tensor fills", source)
    jc.weights.write(path, {**TENSORS, "fc.weight": np.ones((3, 128), int)})
    refused(rf"^{re.escape(str(path))}: fc.weight must be of a floating-point type", path)
    refused(r"^x must be an input, since 0 \(Shift\) does not declare", path, net=jc.serial(Shift()))


def test_a_file_of_ones_own_is_told_apart(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    net = jc.serial(fc=jc.Dense(3))
    jc.weights.save(path, net, *net.init(jax.random.key(0), (1, 2)))
    refused(rf"^{re.escape(str(path))}: jaxconv.weights.save wrote it: use jaxconv.weights.load$", path, net=net)
    with pytest.raises(WeightsError, match=r"use jaxconv\.weights\.load$"):
        jc.weights.from_keras(net, path)


# --- Names ------------------------------------------------------------------------------------------------------------


def test_counts_of_batches_are_left_out():
    same_trees(from_torch(NET, {**TENSORS, "features.1.num_batches_tracked": np.array(7)}), from_torch(NET, TENSORS))


@pytest.mark.parametrize("extra", [None, b"bytes", {"version": 1}])
def test_what_a_module_has_besides_tensors_is_left_out(extra):
    same_trees(from_torch(NET, {**TENSORS, "features.1._extra_state": extra}), from_torch(NET, TENSORS))


@pytest.mark.parametrize(
    "rename",
    [
        {"module.": "", "module.head.": "fc.", "ema.": None},
        lambda name: None if name.startswith("ema.") else name.removeprefix("module.").replace("head.", "fc."),
    ],
    ids=["a mapping", "a function"],
)
def test_rename_says_what_names_are_to_be(rename):
    tensors = {f"module.{name.replace('fc.', 'head.')}": tensor for name, tensor in TENSORS.items()}
    same_trees(from_torch(NET, {**tensors, "ema.decay": np.ones(1)}, rename=rename), from_torch(NET, TENSORS))


def test_rename_takes_whole_parts_of_names():
    net = jc.serial(stage=jc.PReLU(), layer10=jc.PReLU(), new=jc.serial(a=jc.PReLU()))
    tensors = {"layer1.weight": np.zeros(1), "layer10.weight": np.ones(1), "a.weight": np.full(1, 2.0)}
    params, _ = from_torch(net, tensors, rename={"layer1": "stage", "a": "new.a"})
    assert [params[name]["scale"][0] for name in ("stage", "layer10")] == [0, 1]
    assert params["new"]["a"]["scale"][0] == 2
    params, _ = from_torch(jc.serial(a=jc.serial(b=jc.PReLU())), {"b.weight": np.ones(1)}, rename={"": "a."})
    assert params["a"]["b"]["scale"][0] == 1


def test_rename_must_give_names():
    refused("rename must give a string or None, it gives 3 for 'features.0.weight'", TENSORS, rename=lambda name: 3)


@pytest.mark.parametrize("rename", [{"modul.": ""}, {"fc.": "fc.", "features.1": None, "feat": None}])
def test_a_prefix_that_begins_no_name_is_named(rename):
    wrong = next(prefix for prefix in rename if prefix not in ("fc.", "features.1"))
    refused(
        f"rename: a name of the source must begin with '{wrong}', they begin with 'features.', .*'fc.'",
        TENSORS,
        rename=rename,
    )


def test_rename_must_keep_names_apart():
    refused(
        "rename must keep names apart, it gives 'fc' for 'features.0.weight' and 'features.0.bias'",
        TENSORS,
        rename=lambda name: "fc",
    )


# --- Layers without a rule --------------------------------------------------------------------------------------------


def test_a_layer_without_a_rule_needs_x():
    net = jc.serial(jc.Conv(2, 1), shift=Shift(), local=jc.ConvLocal(2, 1))
    params, state, _ = ready(net, (1, 2, 2, 3))
    tensors = to_torch(net, params, state)
    assert set(tensors) > {"0.weight", "local.kernel", "local.bias"}
    refused(r"^x must be an input, since shift \(Shift\) does not declare its arrays, got None$", tensors, net=net)
    same_trees(from_torch(net, tensors, (1, 2, 2, 3)), (params, state))
    tensors["local.kernel"] = tensors["local.kernel"][0]
    refused(r"local.kernel must have shape \(2, 2, 1, 1, 2, 2\), got \(2, 1, 1, 2, 2\)", tensors, (1, 2, 2, 3), net)


@dataclasses.dataclass(frozen=True, repr=False)
class Gained(jc.Dense):
    """A kind of layer with a rule, and an array more."""

    def init(self, key, x):
        params, state = super().init(key, x)
        return {**params, "gain": jnp.full((), 2.0)}, state


@dataclasses.dataclass(frozen=True)
class Weighing:
    """A user's composite with arrays of its own."""

    children: tuple

    def init(self, key, x):
        return {"weight": jnp.ones(()), "body": self.children[0][1].init(key, x)[0]}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        return x * params["weight"], state


@pytest.mark.parametrize(
    ("layer", "own"),
    [(Gained(2), "gain"), (Weighing((("body", jc.Dense(2)),)), "weight")],
    ids=["subclass", "composite"],
)
def test_arrays_beyond_the_rule_are_filled_and_wanted(layer, own):
    for net, names in ((jc.serial(a=layer), [f"a.{own}"]), (jc.repeat(layer, 2), [f"0.{own}", f"1.{own}"])):
        params, state, _ = ready(net, (1, 2))
        tensors = to_torch(net, params, state)
        assert {*names} < {*tensors}
        same_trees(from_torch(net, tensors, (1, 2)), (params, state))
        less = {name: a for name, a in tensors.items() if name != names[-1]}
        refused(rf"places that no tensor fills:\n  {names[-1]} \(\)", less, (1, 2), net)


def test_trees_that_hold_other_things_are_refused():
    class Lists(Shift):
        def init(self, key, x):
            return {"shifts": [jnp.ones(2)]}, {}

        def apply(self, params, state, x, *, train=False, key=None):
            return x, state

    refused("params/0/shifts must be an array or a dict of arrays, got list", {}, (1, 2), jc.serial(Lists()))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (None, "^params must be a dict of arrays, got NoneType$"),
        (jnp.ones(3), "^params must be a dict of arrays, got "),
        ({"fc": jnp.ones(3)}, "^params/fc/kernel must be an array of Dense, got none"),
        ({"fc": [jnp.ones(3)]}, "^params/fc must be an array or a dict of arrays, got list$"),
        (
            {"fc": {"kernel": jnp.ones((64, 7)), "bias": jnp.ones(3)}},
            r"kernel must have shape \(\?, 3\), got \(64, 7\)$",
        ),
        ({"fc": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}}, r"kernel must have shape \(\?, 3\), got \(3,\)$"),
        (
            {"fc": {"kernel": jnp.ones((2, 4, 3)), "bias": jnp.ones((2, 3))}},
            r"kernel must have shape .* got \(2, 4, 3\)$",
        ),
    ],
)
def test_to_torch_refuses_what_does_not_fit(params, message):
    with pytest.raises(WeightsError, match=message):
        to_torch(jc.serial(fc=jc.Dense(3)), params, {})


def test_to_torch_wants_all_arrays_and_no_others():
    params, state = from_torch(NET, TENSORS)
    with pytest.raises(WeightsError, match=r"^params/fc/bias must be an array of Dense, got none$"):
        to_torch(NET, {**params, "fc": {"kernel": params["fc"]["kernel"]}}, state)
    with pytest.raises(
        WeightsError, match=r"^state must have only arrays that layers of net store, got state/fc/seen too$"
    ):
        to_torch(NET, params, {**state, "fc": {"seen": jnp.ones(1)}})


@pytest.mark.torch
def test_torch_tensors_of_any_type_are_taken():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        tensors = {name: torch.from_numpy(a).to(dtype).requires_grad_() for name, a in TENSORS.items()}
        params, _ = from_torch(NET, tensors)
        assert_array_equal(params["fc"]["bias"].astype(np.float32), tensors["fc.bias"].detach().float().numpy())


@pytest.mark.torch
def test_tensors_that_numpy_does_not_hold_are_refused():
    torch = pytest.importorskip("torch")
    for tensor in (torch.ones(3).to(torch.float8_e4m3fn), torch.ones(3, device="meta"), torch.ones(3).to_sparse()):
        refused("^'fc.bias' must be a dense array that NumPy can hold, got torch", {**TENSORS, "fc.bias": tensor})
    refused("got a Linear", torch.nn.Linear(2, 2))


def test_the_dotted_names_of_published_densenets_are_known():
    net = jc.models.densenet(4, (2, 1), 3, width=8)
    params, state, _ = ready(net, (1, 32, 32, 3))
    tensors = to_torch(net, params, state)
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", name): array for name, array in tensors.items()}
    assert len(set(old) - set(tensors)) == 3 * (2 + 8)
    wrapped = {f"module.{name}": array for name, array in old.items()}
    for found in (from_torch(net, old), from_torch(net, wrapped, rename={"module.": ""})):
        jax.tree.map(assert_array_equal, found, (params, state))


@pytest.mark.torch
def test_parameters_of_a_module_are_copied():
    torch = pytest.importorskip("torch")
    for _ in range(20):
        module = torch.nn.Linear(64, 64)
        params, _ = from_torch(jc.Dense(64), module.state_dict())
        with torch.no_grad():
            module.weight.fill_(7)
            module.bias.fill_(7)
        assert not (params["kernel"] == 7).any()
        assert not (params["bias"] == 7).any()
