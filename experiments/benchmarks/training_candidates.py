"""The programs that `experiments.benchmarks.training` compares: the same step in jaxconv, Flax, Equinox and torch."""

import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.benchmarks.options import option_sets
from experiments.optional import optax

CLASSES, MEMBERS = 10, 8
RATE, MOMENTUM = 1e-3, 0.9


@dataclass(frozen=True)
class Case:
    """A program: ``what`` is a training step, the gradient of each example, or the gradients of an ensemble."""

    network: str
    batch: int
    shape: tuple[int, ...]
    what: str = "step"


CASES = {
    "lenet": Case("lenet", 128, (28, 28, 1)),
    "resnet18": Case("resnet18", 64, (32, 32, 3)),
    "mobilenetv2": Case("mobilenetv2", 16, (64, 64, 3)),
    "unet": Case("unet", 8, (64, 64, 3)),
    "conv1d": Case("conv1d", 32, (4096, 1)),
    "conv3d": Case("conv3d", 8, (16, 32, 32, 1)),
    "per-example gradients": Case("lenet", 64, (28, 28, 1), "per example"),
    f"ensemble of {MEMBERS}": Case("lenet", 32, (28, 28, 1), "ensemble"),
}


@dataclass
class Candidate:
    """A compiled program: ``call`` runs it and returns the loss, and the gradients unless it is a step."""

    call: Callable[[], tuple[Any, Any]]
    parameters: int
    compile_seconds: float | None = None
    memory: dict[str, int] | None = None


def data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch of noise and labels, with a leading axis for an ensemble."""
    draw = np.random.default_rng(0)
    leading = (MEMBERS, case.batch) if case.what == "ensemble" else (case.batch,)
    pixels = case.shape[:-1] if case.network == "unet" else ()
    x = draw.standard_normal((*leading, *case.shape), np.float32)
    return x, draw.integers(CLASSES, size=(*leading, *pixels))


def count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def functional(case: Case, forward: Callable[..., Any], params: Any, state: Any) -> tuple[Callable[..., Any], Any]:
    """Returns ``(carry, x, y) -> (loss, new carry or gradients)`` of ``forward(params, state, x)``, and the carry."""
    optimizer = optax.sgd(RATE, momentum=MOMENTUM)

    def loss(params: Any, state: Any, x: Any, y: Any) -> Any:
        logits, state = forward(params, state, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

    def step(carry: Any, x: Any, y: Any) -> Any:
        params, state, moments = carry
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state, x, y)
        updates, moments = optimizer.update(grads, moments)
        return value, (optax.apply_updates(params, updates), state, moments)

    def gradient(params: Any, x: Any, y: Any) -> Any:
        return jax.value_and_grad(lambda params: loss(params, {}, x, y)[0])(params)

    def per_example(params: Any, x: Any, y: Any) -> Any:
        return jax.vmap(lambda x, y: gradient(params, x[None], y[None]))(x, y)

    if case.what == "step":
        return step, (params, state, optimizer.init(params))
    return (per_example if case.what == "per example" else jax.vmap(gradient)), params


def jaxconv_program(case: Case, plan: Any, members: list[Any]) -> tuple[Callable[..., Any], Any, int]:
    from experiments.benchmarks.networks.with_jaxconv import jaxconv_network

    net = jaxconv_network(plan)
    params, state = stack(members) if case.what == "ensemble" else members[0]
    function, carry = functional(case, lambda p, s, x: net.apply(p, s, x, train=True), params, state)
    return function, carry, count(params)


def flax_program(case: Case, plan: Any, members: list[Any], **options: Any) -> tuple[Callable[..., Any], Any, int]:
    from experiments.benchmarks.networks.with_flax import Linen, flax_tree

    model = Linen(plan, **options)
    trees = [tuple(flax_tree(plan, tree) for tree in member) for member in members]
    params, state = stack(trees) if case.what == "ensemble" else trees[0]

    def forward(params: Any, state: Any, x: Any) -> Any:
        logits, new = model.apply({"params": params, "batch_stats": state}, x, mutable=["batch_stats"])
        return logits, new.get("batch_stats", {})

    function, carry = functional(case, forward, params, state)
    return function, carry, count(params)


def equinox_program(plan: Any, params: Any) -> tuple[Callable[..., Any], Any, int]:
    import equinox as eqx

    from experiments.benchmarks.networks.with_equinox import equinox_network

    model, state = equinox_network(plan, params)
    optimizer = optax.sgd(RATE, momentum=MOMENTUM)

    def loss(model: Any, state: Any, x: Any, y: Any) -> Any:
        logits, state = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
        logits = jnp.moveaxis(logits, 1, -1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

    def step(carry: Any, x: Any, y: Any) -> Any:
        model, state, moments = carry
        (value, state), grads = eqx.filter_value_and_grad(loss, has_aux=True)(model, state, x, y)
        updates, moments = optimizer.update(grads, moments)
        return value, (eqx.apply_updates(model, updates), state, moments)

    params = eqx.filter(model, eqx.is_inexact_array)
    return step, (model, state, optimizer.init(params)), count(params)


def jax_candidate(
    case: Case,
    program: tuple[Callable[..., Any], Any, int],
    x: Any,
    y: Any,
    jit: Callable[..., Any] = jax.jit,
    within: Callable[[], Any] = contextlib.nullcontext,
) -> Candidate:
    """Compiles a program twice with ``jit``, inside the context manager ``within``, and reports the shorter time.

    The first compilation also traces JAX's own functions, unless an earlier candidate has traced them.
    """
    function, carry, parameters = program
    x, y = jnp.asarray(x), jnp.asarray(y)
    seconds = math.inf
    for _ in range(2):
        jitted = jit(lambda carry, x, y: function(carry, x, y))
        with within():
            start = time.perf_counter()
            compiled = jitted.lower(carry, x, y).compile()
            seconds = min(seconds, time.perf_counter() - start)
    # Equinox wraps the compiled program.
    found = getattr(compiled, "compiled", compiled).memory_analysis()
    memory = {
        "arguments": found.argument_size_in_bytes,
        "outputs": found.output_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
    }

    def call() -> tuple[Any, Any]:
        nonlocal carry
        with within():
            value, tree = jax.block_until_ready(jitted(carry, x, y))
        if case.what == "step":
            carry, tree = tree, {}
        return value, tree

    return Candidate(call, parameters, seconds, memory)


def torch_candidate(case: Case, plan: Any, members: list[Any], x: Any, y: Any, *, compiled: bool = False) -> Candidate:
    """Builds a step in torch, or gradients by `torch.func`; `torch.compile` compiles the model or all of it."""
    import torch
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap

    from experiments.benchmarks.networks.with_torch import torch_network

    # A full graph is required: otherwise a program that falls back to eager code would count as compiled.
    compile = functools.partial(torch.compile, fullgraph=True, dynamic=False) if compiled else lambda function: function
    if compiled:
        torch.compiler.reset()
    models = [torch_network(plan, params) for params, _ in members]
    model = models[0]
    # The channels become the first axis; in memory they remain the last.
    images, labels = torch.tensor(x).movedim(-1, -len(case.shape)), torch.tensor(y)
    entropy = torch.nn.functional.cross_entropy
    parameters = sum(p.numel() for p in model.parameters())

    if case.what == "step":
        optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
        forward = compile(model)

        def step() -> tuple[Any, Any]:
            optimizer.zero_grad()
            loss = entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
            return loss.detach(), {}

        return Candidate(step, parameters)

    if case.what == "ensemble":
        found, _ = stack_module_state(models)  # type: ignore[arg-type]
        model, parameters, axis = copy.deepcopy(model).to("meta"), parameters * len(models), 0
    else:
        found, axis = dict(model.named_parameters()), None  # type: ignore[assignment]
        images, labels = images[:, None], labels[:, None]
    weights = {name: value.detach() for name, value in found.items()}

    def loss(weights: Any, x: Any, y: Any) -> Any:
        return entropy(functional_call(model, weights, (x,)), y)

    @compile
    def mapped(weights: Any, x: Any, y: Any) -> Any:
        return vmap(grad_and_value(loss), in_dims=(axis, 0, 0))(weights, x, y)

    def gradients() -> tuple[Any, Any]:
        grads, value = mapped(weights, images, labels)
        return value, grads

    return Candidate(gradients, parameters)


def candidates(case: Case, plan: Any, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, Callable[[], Candidate]]]:
    """Yields the name of each candidate and the function that builds it; all use the weights that jaxconv draws."""
    from experiments.benchmarks.networks.with_jaxconv import jaxconv_network

    net, shape = jaxconv_network(plan), (1, *case.shape)
    members = [net.init(jax.random.key(i), shape) for i in range(MEMBERS if case.what == "ensemble" else 1)]
    ours = lambda **how: jax_candidate(case, jaxconv_program(case, plan, members), x, y, **how)  # noqa: E731
    linen = lambda jit=jax.jit, **options: jax_candidate(  # noqa: E731
        case, flax_program(case, plan, members, **options), x, y, jit=jit
    )
    yield "jaxconv", ours
    yield "jaxconv.jit", lambda: ours(jit=jc.jit)
    if callable(getattr(jc, "lowering", None)):
        yield "jaxconv (xla)", lambda: ours(within=lambda: jc.lowering("xla"))
    yield "flax", linen
    yield "flax, jaxconv.jit", lambda: linen(jit=jc.jit)
    if "oneDNN" in option_sets():
        yield "flax, oneDNN", lambda: linen(jit=jc.jit(compiler_options=option_sets()["oneDNN"]))
    yield "flax + drop-in", lambda: linen(conv_general_dilated=jc.conv_general_dilated)
    if case.what == "step":
        import equinox as eqx

        first = np.moveaxis(x, -1, 1)
        yield "equinox", lambda: jax_candidate(case, equinox_program(plan, members[0][0]), first, y, jit=eqx.filter_jit)
    yield "torch", lambda: torch_candidate(case, plan, members, x, y)
    yield "torch.compile", lambda: torch_candidate(case, plan, members, x, y, compiled=True)
