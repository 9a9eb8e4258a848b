"""What mypy --strict sees of a program that uses jaxconv: the right types, and a misspelled name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="needs the test extra")
ROOT = Path(__file__).parent.parent

PROGRAM = """
import jax
import jax.numpy as jnp
import jaxconv as jc
from jaxconv.models import resnet18

x = jnp.ones((2, 32, 32, 3))
y = jc.conv(x, jnp.ones((3, 3, 3, 8)), stride=2)
reveal_type(y)  # Array
reveal_type(jc.max_pool(y, 2))  # Array
reveal_type(jc.conv_output_size(32, 3, padding=1))  # int

net = jc.serial(jc.Conv(8), jc.BatchNorm(), jax.nn.relu, head=jc.serial(jc.GlobalAvgPool(), jc.Dense(10)))
reveal_type(net)  # Serial
params, state = net.init(jax.random.key(0), x)
reveal_type(params)  # dict[str, Any]
scores, state = net.apply(params, state, x, train=True)
reveal_type(jc.residual(jc.Conv(3)))  # Residual
reveal_type(jc.map_layers(net, lambda layer: layer))  # Layer

reveal_type(jc.models.resnet50(10, width=32, small_images=True))  # Layer
reveal_type(resnet18)  # def (classes: int =, *, width: int =, dilate: Sequence[bool] =, small_images: bool =, ...

table = jc.summary(net, (1, 32, 32, 3))
reveal_type(table)  # Summary
reveal_type(table.parameters)  # int
reveal_type(jc.inspect.receptive_field(net, x))  # dict[str, tuple[...
reveal_type(jc.inspect.activations(net, params, state, x)[1])  # dict[str, Any]
reveal_type(jc.inspect.figures.images(x))  # Figure
reveal_type(jc.explain(lambda x: jc.max_pool(x, 2), x))  # Explanation


@jc.jit
def loss(params: jc.layer.Params, x: jax.Array) -> jax.Array:
    return jnp.mean(net.apply(params, state, x)[0])


reveal_type(loss(params, x))  # Array
reveal_type(jc.jit(jc.batch_statistics, static_argnames="axis_name")(x))  # tuple[Array, Array]
reveal_type(jc.jit(donate_argnums=1)(loss)(params, x))  # Array

try:
    jc.dense(x, x)
except jc.ShapeError as error:
    reveal_type(error.path)  # tuple[str, ...]

result = jc.train.fit(net, x, jnp.zeros(2, int), None, loss=lambda scores, labels: scores[:, 0], epochs=1)
reveal_type(result)  # FitResult
reveal_type(jc.weights.from_torch(net, {}, x))  # tuple[dict[str, Any], dict[str, Any]]
reveal_type(jc.data.random_flip(jax.random.key(0), x))  # Array
reveal_type(jc.interop.flax.to_linen)  # def (...
"""

WRONG = {
    "jc.models.resnet50(clases=10)": 'Unexpected keyword argument "clases"',
    "jc.models.resnet50(classes='ten')": 'Argument "classes" has incompatible type "str"; expected "int"',
    "jc.models.vgg16_bn(norm=True)": 'Unexpected keyword argument "norm" for "vgg16_bn"',
    "jc.models.resnet51()": 'Module has no attribute "resnet51"',
    "jc.Convolution(8)": 'Module has no attribute "Convolution"',
    "jc.inspect.sumary": 'Module has no attribute "sumary"',
    "jc.Conv(8, strides=2)": 'Unexpected keyword argument "strides" for "Conv"',
    "jc.jit(jc.conv_output_size)(32)": "Missing positional argument",
}


def checked(folder, program):
    """The lines that mypy --strict prints, by the line of the program."""
    (folder / "program.py").write_text(program)
    # Follow jaxconv as a checker does where it is installed: its types count, its own errors are not the user's.
    options = ["--strict", "--follow-imports=silent", "--no-pretty", "--cache-dir", os.devnull]
    command = [sys.executable, "-m", "mypy", *options, "program.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"program\.py:(\d+): (?:error|note): (.*)", line):
            found.setdefault(int(match[1]), []).append(match[2])
    return found, done.stdout


def short(text):
    """A type without the modules of its names."""
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    program = PROGRAM + "".join(f"{line}\n" for line in WRONG)
    return program, *checked(tmp_path_factory.mktemp("typing"), program)


def test_a_program_has_no_errors_and_the_right_types(report):
    program, found, output = report
    lines = program.splitlines()
    wrong = range(len(lines) - len(WRONG) + 1, len(lines) + 1)
    assert not [line for line in output.splitlines() if " error: " in line and int(line.split(":")[1]) not in wrong]
    wanted = {i: line.split("  # ")[1] for i, line in enumerate(lines, 1) if line.lstrip().startswith("reveal_type(")}
    got = {i: short(found[i][0].removeprefix("Revealed type is ").strip('"')) for i in wanted}
    for i, want in wanted.items():
        if want.endswith("..."):
            assert got[i].startswith(want[:-3].rstrip()), lines[i - 1]
        else:
            assert got[i] == want, lines[i - 1]


@pytest.mark.parametrize("line", WRONG)
def test_a_mistake_is_an_error_for_the_type_checker(report, line):
    program, found, _ = report
    assert any(WRONG[line] in message for message in found[program.splitlines().index(line) + 1])
