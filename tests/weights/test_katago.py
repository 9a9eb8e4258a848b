"""KataGo's files: against a float64 evaluation of the same file, and what is refused."""

import gzip

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.weights import WeightsError, from_katago
from tests.weights.katago_files import evaluate, inputs, network_file


@pytest.fixture
def written(tmp_path):
    def write(content, name="net.bin"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def agrees(path, content, x, tolerance=2e-5):
    net, params, state = from_katago(path)
    y, _ = jax.jit(net.apply)(params, state, x)
    wanted = evaluate(content, *x)
    on_board = np.concatenate([x[0][..., 0].reshape(len(x[0]), -1), np.ones((len(x[0]), 1))], axis=1) > 0
    assert y.keys() == wanted.keys()
    for name, value in wanted.items():
        found = np.asarray(y[name])
        assert found.shape == value.shape
        if name == "policy":
            assert (found[~on_board] < -1000).all()
            found, value = found[on_board], value[on_board]
        np.testing.assert_allclose(found, value, atol=tolerance * max(1, np.abs(value).max()), rtol=0)
    return net, params, state


def test_a_network_has_the_outputs_of_its_file_on_boards_of_several_sizes(written):
    content = network_file()
    net, params, _ = agrees(written(content), content, inputs((9, 7, 9)))
    assert net.scales.score_error == 150
    assert params["blocks"]["2"]["blockstack"]["0"]["normactconv1"]["convpool"]["conv1g"]["kernel"].shape == (
        3,
        3,
        5,
        2,
    )


@pytest.mark.parametrize(("version", "act"), [(8, "relu"), (10, "relu"), (11, "identity"), (12, "relu")])
def test_versions_differ_in_heads_and_activations(written, version, act):
    content = network_file(version, kinds=("pooled",), act=act)
    net, params, _ = agrees(written(content), content, inputs((5,)))
    assert net.version == version
    assert net.scales.score_error == 30
    assert params["policy_head"]["conv2p"]["kernel"].shape[-1] == (2 if version == 12 else 1)
    assert params["value_head"]["linear_miscvaluehead"]["bias"].shape == ((4,) if version == 8 else (6,))


def test_text_and_compressed_files_have_the_same_arrays(written):
    kinds = ("ordinary",)
    first = from_katago(written(network_file(kinds=kinds)))
    for content, name in (
        (network_file(kinds=kinds, binary=False), "net.txt"),
        (gzip.compress(network_file(kinds=kinds)), "net.bin.gz"),
        (gzip.compress(network_file(kinds=kinds, binary=False)), "net.txt.gz"),
    ):
        other = from_katago(written(content, name))
        assert other[0] == first[0]
        jax.tree.map(np.testing.assert_array_equal, first[1:], other[1:])


def test_a_padded_board_is_evaluated_as_it_is_alone(written):
    content = network_file(kinds=("nested",))
    net, params, state = from_katago(written(content))
    small = inputs((7,))
    padded = np.zeros((1, 9, 9, 22), np.float32)
    padded[:, :7, :7] = small[0]
    a, b = (jax.jit(net.apply)(params, state, (planes, small[1]))[0] for planes in (small[0], padded))
    np.testing.assert_allclose(a["value"], b["value"], atol=1e-5)
    np.testing.assert_allclose(a["ownership"], b["ownership"][:, :7, :7], atol=1e-5)
    assert not b["ownership"][:, 7:].any()
    legal = np.zeros((1, 10, 10), bool)
    legal[:, :7, :7] = True
    legal = np.append(legal[:, :9, :9].reshape(1, -1), [[True]], axis=1)
    found = net.evaluation(b, legal)
    alone = net.evaluation(a, np.ones((1, 50), bool))
    np.testing.assert_allclose(found.policy[:, :-1].reshape(9, 9)[:7, :7].ravel(), alone.policy[0, :-1], atol=1e-6)
    np.testing.assert_allclose(found.win + found.loss, 1, atol=1e-6)
    assert float(found.no_result[0]) == 0


def test_the_builder_makes_the_network_of_the_file(written):
    content = network_file(kinds=("nested", "ordinary"), width=6, middle=5, pooled=2)
    net, params, state = from_katago(written(network_file(kinds=("nested",) * 2)))
    built = jc.models.katago(2, 6, middle=5, pooled=2, policy=3, values=(3, 7), pools=(0, 1))
    assert built.children == net.children
    wanted = jax.eval_shape(lambda key: built.init(key, inputs()), jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (params, state))
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), wanted)
    assert from_katago(written(content))[0] != net


def test_a_file_cut_short_is_refused_wherever_it_ends(written):
    content = network_file(kinds=("pooled",), width=4, middle=4)
    ends = [*range(0, 60, 7), *range(60, len(content) - 4, 331), len(content) - 3]
    for end in ends:
        with pytest.raises(WeightsError, match=r"net\.bin: .*(must follow|must be|must come)") as caught:
            from_katago(written(content[:end]))
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="conv_ownership: 3 numbers must follow, got 2 and the end of the file"):
        from_katago(written(content[:-4]))
    squeezed = gzip.compress(content)
    with pytest.raises(WeightsError, match="gzip stream must be complete"):
        from_katago(written(squeezed[: len(squeezed) // 2], "net.bin.gz"))


def spoiled(content, old, new, count=1):
    assert old in content
    return content.replace(old, new, count)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"random\n14", b"random\n15", "random: the model version must be between 8 and 14, got 15"),
        (b"random\n14", b"random\nnet", "random: the model version must be a number, got 'net'"),
        (b"22\n19", b"22\n20", r"random: it must take 22 planes and 19 global features, got \(22, 20\)"),
        (b"ordinary_block", b"dilated_block", "after it must come ordinary_block, .*, got 'dilated_block'"),
        (b"ACTIVATION_MISH", b"ACTIVATION_GELU", r"\.act: its type must be one of .*, got 'ACTIVATION_GELU'"),
        (b"normactconv2.norm\n5", b"normactconv2.norm\n6", r"normactconv2\.norm: it must take 5 channels, got 6"),
        (b"random\n14\n22\n19\n20\n20\n20\n20\n40\n0.25\n150", b"random\n11\n22\n19", "policy must have 1 outputs"),
        (b"conv_spatial\n3", b"conv_spatial\n0", r"conv_spatial: the window's height must be an integer from 1"),
        (b"conv_spatial\n3", b"conv_spatial\nnan", r"conv_spatial: the window's height must be a number, got 'nan'"),
        (b"1e-20\n1\n1", b"1e-20\n1\n0", "a norm must have a bias, got none"),
    ],
)
def test_what_is_wrong_is_named_with_its_layer(written, old, new, message):
    with pytest.raises(WeightsError, match=message):
        from_katago(written(spoiled(network_file(kinds=("ordinary",)), old, new)))


def test_numbers_that_are_not_finite_are_refused(written):
    content = bytearray(network_file(kinds=("ordinary",)))
    at = content.index(b"linear_global")
    at = content.index(b"@BIN@", at) + 5 + 4 * 10
    content[at : at + 4] = np.float32(np.nan).tobytes()
    with pytest.raises(WeightsError, match=r"model\.linear_global: its 114 numbers must be finite, got nan"):
        from_katago(written(bytes(content)))


def test_other_files_are_refused(written):
    for content in (b"", b"<html><body>404</body></html>", b"\x1f\x8b" + bytes(40), bytes(1000)):
        with pytest.raises(WeightsError):
            from_katago(written(content))
    with pytest.raises(WeightsError, match="must be a network, got more than"):
        from_katago(written(gzip.compress(bytes(10**8))))
    with pytest.raises(WeightsError, match="the file must end after it, got more"):
        from_katago(written(network_file(kinds=("ordinary",)) + b"more"))
    with pytest.raises(FileNotFoundError):
        from_katago("nowhere.bin.gz")
