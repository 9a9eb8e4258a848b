"""The experiment from the command line to its PNGs, on a small network."""

import jax
import numpy as np
import pytest
from PIL import Image

import jaxconv as jc
from experiments import style
from experiments.pretrained import Pretrained
from jaxconv.inspect.style import PerceptualLoss
from tests.experiments.photographs import photograph


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("content", "style"):
        Image.fromarray(rng.integers(0, 256, (24, 30, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def small(monkeypatch):
    """A network of the same paths, with few filters."""

    def block(*layers):
        return jc.serial(*layers, jc.Conv(2), jax.nn.relu)

    net = jc.serial(
        block1=block(),
        block2=block(jc.MaxPool(2)),
        block3=block(jc.MaxPool(2)),
        block4=block(jc.MaxPool(2), jc.Conv(2), jax.nn.relu),
    )
    params, state = net.init(jax.random.key(0), (1, 16, 16, 3))
    monkeypatch.setattr(style, "vgg", lambda path=None: Pretrained(net, params, state, style.bytes_range))


@pytest.mark.parametrize("fast", [False, True])
def test_images_are_painted(small, files, tmp_path, monkeypatch, capsys, fast):
    monkeypatch.setattr(style, "TRAINED_ON", [str(files / "content.png")])
    monkeypatch.setattr(style, "PIECE", 16)
    monkeypatch.setattr(style, "transform_net", lambda **_: jc.models.style.transform_net(widths=(2, 2), blocks=0))
    arguments = ["--image", str(files / "content.png"), "--style", str(files / "style.png"), "--side", "16"]
    found = style.main([*arguments, "--steps", "5", "--out", str(tmp_path), *["--fast"] * fast])
    assert found["content"].shape == (16, 20, 3)
    with Image.open(tmp_path / f"content_style{'_fast' if fast else ''}.png") as written:
        assert np.abs(np.asarray(written) / 255 - found["content"]).max() < 0.5 / 255 + 1e-6
    shown = capsys.readouterr().err
    bars = ("learning to copy", "learning the style") if fast else ("painting content",)
    assert all(f"{bar}: 100%" in shown for bar in bars)
    assert "loss " in shown


def test_wrong_arguments_are_named(capsys, tmp_path):
    for bad in (["--steps", "-1"], ["--optimizer", "sgd"], ["--style-weight", "0"]):
        with pytest.raises(SystemExit):
            style.main([*bad, "--out", str(tmp_path / "out")])
        assert bad[0] in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"--image must have files of different names, got china, china"):
        style.main(["--image", "a/china.jpg", "b/china.jpg", "--out", str(tmp_path / "out")])
    with pytest.raises(FileNotFoundError, match="is no file"):
        style.main(["--image", "no.png", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_painting_comes_nearer_to_the_style_and_keeps_its_content(tmp_path):
    photograph("ihc.png")
    try:
        model = style.vgg()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    found = style.main(["--image", "coffee.png", "--side", "96", "--steps", "30", "--out", str(tmp_path), "--quiet"])
    content = style.sized(style.photograph("coffee.png"), 96)
    wanted = style.sized(style.photograph("ihc.png"), 96)
    content_loss, style_loss = (
        PerceptualLoss(model.net, *paths, preprocess=model.preprocess)
        for paths in ((style.CONTENT, []), ([], style.STYLE))
    )

    def apart(loss, x):
        features, grams = loss.features(*model[1:3], content), loss.grams(*model[1:3], wanted)
        return loss(*model[1:3], x, features, grams)[0]

    apart = jax.jit(apart, static_argnums=0)
    painted = found["coffee"][None]
    assert apart(style_loss, painted) < 0.2 * apart(style_loss, content)
    assert apart(content_loss, painted) < 0.7 * apart(content_loss, np.full_like(content, 0.5))
