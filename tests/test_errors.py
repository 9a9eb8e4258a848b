"""Errors: the layer's path in front, once, and a short traceback."""

import os
import traceback

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc

KEY = jax.random.key(0)
PACKAGE = os.path.dirname(jc.__file__)


def deep(layer, levels=6):
    for _ in range(levels):
        layer = jc.residual(jc.serial(jc.Identity(), layer))
    return layer


def frames_of(function, *args):
    """The frames of the error that a call raises: those of jaxconv, and all names."""
    with pytest.raises(Exception) as raised:
        function(*args)
    frames = traceback.extract_tb(raised.value.__traceback__)
    return [f.name for f in frames if f.filename.startswith(PACKAGE)], [f.name for f in frames], raised.value


NARROW = jc.Conv(4)
FAULTS = {
    "a shape": (deep(NARROW), (1, 8, 8, 4), jnp.ones((1, 8, 8, 5))),
    "a user's function": (deep(jc.Fn(lambda x: jnp.reshape(x, (3,)))), None, jnp.ones((1, 8))),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.grad, jc.jit], ids=["eager", "jit", "grad", "jc.jit"])
def test_an_error_shows_few_frames_of_ours(fault, wrap):
    net, shape, x = FAULTS[fault]
    params, state = net.init(KEY, shape) if shape else ({}, {})

    def users_loss(x):
        return jnp.sum(net.apply(params, state, x)[0])

    ours, names, error = frames_of(wrap(users_loss), x)
    assert len(ours) <= 10
    assert "users_loss" in names
    if fault == "a shape":
        assert names[-1] == "conv"
        assert str(error).startswith("1.1.1.1.1.1 (Conv): kernel")
    else:
        assert names.count("<lambda>") == 1
    assert error.__cause__ is None or type(error.__cause__).__module__.startswith("jax")


def test_init_and_summary_show_few_frames_of_ours():
    for call in (lambda: deep(NARROW).init(KEY, (1, 8)), lambda: jc.summary(deep(NARROW), (1, 8))):
        ours, names, _ = frames_of(call)
        assert len(ours) <= 10
        assert names[-1] == "batched_sizes"


def test_all_frames_are_shown_where_jax_shows_all():
    net, shape, x = FAULTS["a shape"]
    params, state = net.init(KEY, shape)
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        ours, _, _ = frames_of(jax.jit(lambda x: net.apply(params, state, x)[0]), x)
    finally:
        jax.config.update("jax_traceback_filtering", before)
    assert len(ours) > 20


def nested(leaf):
    """A leaf three composites deep, behind each of those that add no level, at a.b.c.1."""
    inner = jc.remat(jc.concat(jc.Identity(), leaf))
    return jc.serial(
        a=jc.residual(jc.serial(b=jc.mixed_precision(jc.serial(c=inner), output="float32")), jc.Identity())
    )


def raises_once(error, path, kind, call):
    """Runs ``call`` and checks that its error names the place in front, and once."""
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    assert message.startswith(f"{path} ({kind}): ")
    assert message.count(path) == 1
    assert message.count(kind) == 1
    assert not [note for note in getattr(raised.value, "__notes__", ()) if note.startswith("in layer")]
    return message


def test_a_path_stands_in_front_of_an_error_once():
    net = nested(jc.Conv(2, 5, padding="VALID"))
    x = jnp.ones((1, 4, 4, 3))
    params = {"a": {"b": {"c": {"1": {"kernel": jnp.ones((5, 5, 3, 2)), "bias": jnp.ones(2)}}}}}
    for call in (
        lambda: net.init(KEY, x),
        lambda: net.apply(params, {}, x),
        lambda: jax.jit(net.apply)(params, {}, x),
        lambda: jax.grad(lambda p: net.apply(p, {}, x)[0].sum())(params),
        lambda: jc.summary(net, x),
        lambda: jc.inspect.receptive_field(net, x),
        lambda: jc.inspect.activations(net, params, {}, x),
    ):
        message = raises_once(jc.ShapeError, "a.b.c.1", "Conv", call)
        assert message.endswith("window must be at most the padded input, 4 + 0 + 0 = 4, got 5 on spatial axis 0")


def test_an_error_says_what_was_expected_and_what_came():
    net = jc.serial(features=jc.serial(jc.Identity(), jc.Identity(), jc.Identity(), jc.Conv(128)))
    params, state = net.init(KEY, (8, 28, 28, 64))
    with pytest.raises(jc.ShapeError) as raised:
        net.apply(params, state, jnp.ones((8, 28, 28, 32)))
    assert str(raised.value) == (
        "features.3 (Conv): kernel (3, 3, 64, 128) takes 64 input channels, x has 32: shape (8, 28, 28, 32)"
    )
    assert raised.value.path == ("features", "3")
    assert raised.value.layer == "Conv"


def test_integer_images_are_refused_with_the_layers_path():
    net = jc.serial(stem=jc.Conv(4))
    images = jnp.zeros((1, 8, 8, 3), jnp.uint8)
    for call in (lambda: net.init(KEY, images), lambda: jc.summary(net, images)):
        with pytest.raises(
            jc.DTypeError, match=r"^stem \(Conv\): x must be a floating-point array, got uint8: convert"
        ):
            call()


def test_a_layer_by_itself_has_no_path():
    with pytest.raises(jc.ShapeError) as raised:
        jc.Conv(8).apply({"kernel": jnp.ones((3, 3, 4, 8)), "bias": jnp.ones(8)}, {}, jnp.ones((1, 8, 8, 3)))
    assert str(raised.value).startswith("kernel (3, 3, 4, 8) takes 4 input channels")


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (jc.ArgumentError, ValueError),
        (jc.PathError, jc.ArgumentError),
        (jc.PathError, KeyError),
        (jc.ShapeError, ValueError),
        (jc.DTypeError, TypeError),
        (jc.MissingKeyError, ValueError),
        (jc.ParameterError, KeyError),
    ],
)
def test_errors_are_pythons_own_and_print_as_one_sentence(error, base):
    assert issubclass(error, base)
    raised = error("x must be this, got that")
    assert str(raised) == "x must be this, got that"
    raised.locate("1", "Conv")
    raised.locate("", "Gate")
    raised.locate("features", "Serial")
    assert str(raised) == "features.1 (Conv): x must be this, got that"


def explode(x):
    raise ZeroDivisionError("no more")


def test_an_error_of_another_library_gets_one_note():
    net = nested(explode)
    x = jnp.ones((1, 4, 4, 3))
    for call in (lambda: net.apply({}, {}, x), lambda: net.init(KEY, x), lambda: jc.summary(net, x)):
        with pytest.raises(ZeroDivisionError, match="no more") as raised:
            call()
        notes = [note for note in raised.value.__notes__ if note.startswith("in layer")]
        assert notes == ["in layer a.b.c.1 (Fn)"]


def test_a_note_of_the_error_itself_stays():
    def noted(x):
        error = ValueError("mine")
        error.add_note("a hint")
        raise error

    with pytest.raises(ValueError, match="mine") as raised:
        jc.serial(a=jc.serial(noted)).apply({}, {}, jnp.ones(3))
    assert raised.value.__notes__ == ["a hint", "in layer a.0 (Fn)"]
