"""What photographs show: the known answers on real ones, names, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from experiments import imagenet, pretrained
from tests.experiments.photographs import need_lite0, photograph

ROOT = Path(imagenet.__file__).parents[1]


def test_there_are_1000_distinct_names_in_the_usual_order():
    names = imagenet.class_names()
    assert len(names) == len(set(names)) == 1000
    assert [names[i] for i in (0, 281, 285, 872, 967, 999)] == [
        "tench",
        "tabby",
        "Egyptian cat",
        "tripod",
        "espresso",
        "toilet tissue",
    ]


def test_guesses_are_the_largest_probabilities_in_order():
    # The mean color of the crop, as the scores' bias says: class 3 for red, class 5 for blue.
    net = jc.serial(jc.GlobalAvgPool(), jc.Dense(1000))
    params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    kernel = np.zeros((3, 1000), np.float32)
    kernel[0, 3], kernel[2, 5], kernel[:, 7] = 8, 8, 4
    params["1"]["kernel"] = jnp.asarray(kernel)
    model = pretrained.Pretrained(net, params, state, lambda images: jnp.asarray(images, jnp.float32) / 255)
    red, blue = (np.full((9, 7, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))

    for guesses, first in zip(imagenet.classify(model, [red, blue], most=3), (3, 5), strict=True):
        assert [guess.label for guess in guesses[:2]] == [first, 7]
        assert [guess.name for guess in guesses] == [imagenet.class_names()[guess.label] for guess in guesses]
        assert guesses[0].probability == pytest.approx(np.exp(8) / (np.exp(8) + np.exp(4) + 998), rel=1e-5)
        assert guesses[1].probability == pytest.approx(np.exp(4) / (np.exp(8) + np.exp(4) + 998), rel=1e-5)


def test_real_photographs_have_the_known_answers(capsys):
    need_lite0()
    paths = [str(photograph(name)) for name in ("coffee.png", "camera.png", "chelsea.png")]
    coffee, camera, chelsea = imagenet.main(["--image", *paths])
    assert (coffee[0].label, camera[0].label) == (967, 872)
    assert coffee[0].probability == pytest.approx(0.951, abs=1e-3)
    assert camera[0].probability == pytest.approx(0.937, abs=1e-3)
    assert [guess.label for guess in chelsea[:3]] == [282, 285, 281]
    assert [guess.probability for guess in chelsea[:3]] == pytest.approx([0.385, 0.363, 0.167], abs=1e-3)

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 6
    assert lines[0] == paths[0]
    assert lines[1] == "   95.1%  espresso (967)"


@pytest.mark.parametrize("content", [None, b"text"], ids=["missing", "no image"])
def test_a_bad_image_is_refused_on_the_command_line_in_one_sentence(tmp_path, content):
    path = tmp_path / "picture.jpg"
    if content is not None:
        path.write_bytes(content)
    run = subprocess.run(
        [sys.executable, "-m", "experiments.imagenet", "--image", str(path)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    assert "picture.jpg" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_no_weights_are_looked_for_before_all_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "efficientnet_lite0", lambda path: pytest.fail("looked for weights"))
    (tmp_path / "picture.png").write_bytes(b"text")
    with pytest.raises(ValueError, match="is not an image"):
        imagenet.main(["--image", str(tmp_path / "picture.png")])


@pytest.mark.parametrize("arguments", [[], ["--image"], ["--image", "a.png", "--weights"]])
def test_bad_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        imagenet.main(arguments)
    assert "expected" in capsys.readouterr().err or not arguments
