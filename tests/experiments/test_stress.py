"""The script that draws problems for oneDNN draws all kinds, and says what is wrong."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc
from experiments import stress, stress_ops
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.forms import FORMS
from jaxconv.ops.lowering.problem import ROLES
from jaxconv.ops.lowering.smaller import split_up


@functools.cache
def drawn(of, count):
    """The problems of the first seeds; those that are refused are left out."""
    return [one for seed in range(count) if (one := of.draw(seed)) is not None]


@pytest.fixture
def problems():
    return drawn(stress, 400)


@pytest.fixture
def calls():
    return drawn(stress_ops, 300)


def test_it_draws_every_kind_in_every_role_and_nothing_that_is_not_let_through(problems):
    assert {kind for kind, _ in problems} == set(stress.KINDS)
    assert {p.role for _, p in problems} == set(ROLES)
    for kind, p in problems:
        small = split_up(p)[0] if kind == "split" else p
        assert onednn.fits(small) or p.taps == 1, (kind, p)


@pytest.mark.skipif(not onednn.callable_here(), reason="oneDNN is not called here")
def test_it_sees_a_wrong_number(problems, monkeypatch):
    kind, p = min(problems, key=lambda one: one[1].macs)
    assert stress.check(kind, p, 0) == ""
    right = FORMS["onednn"].function
    wrong = dataclasses.replace(FORMS["onednn"], function=lambda *args, **how: right(*args, **how) * 1.001)
    monkeypatch.setitem(FORMS, "onednn", wrong)
    assert "off by" in stress.check(kind, p, 0)


def test_it_sees_a_child_that_hangs_on_the_second_of_two_problems(monkeypatch, tmp_path):
    told = [
        {"seed": 1, "kind": "few", "problem": "a"},
        {"seed": 1, "wrong": ""},
        {"seed": 2, "kind": "few", "problem": "b"},
    ]
    lines = "\\n".join(json.dumps(line) for line in told)
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\nprintf '{lines}\\n'\nexec sleep 60\n")
    child.chmod(0o755)
    monkeypatch.setattr(stress.sys, "executable", str(child))
    monkeypatch.setitem(stress.CHECKED, "LD_PRELOAD", "")
    seed, counts, wrong = stress.watched(0, 60, None, 1)
    assert (seed, counts["few"]) == (2, 1)
    assert (wrong[0]["problem"], wrong[0]["wrong"]) == ("b", "hung")


def test_ops_are_drawn_in_every_condition(calls):
    assert {kind for kind, _ in calls} == set(stress_ops.KINDS)
    assert {call.op for _, call in calls} > {"conv", "conv_transpose", "max_pool", "avg_pool", "lp_pool", "dense"}
    assert {call.devices for kind, call in calls if kind == "mesh"} == {2, 4, 8}


@pytest.mark.parametrize("kind", stress_ops.KINDS)
def test_what_is_wrong_in_an_op_is_seen(kind, calls, monkeypatch):
    wanted = {"nan": "conv", "mesh": "conv", "strict": "conv"}[kind]
    call = next(c for k, c in calls if k == kind and c.op == wanted and c.devices <= 4)
    assert stress_ops.check(kind, call, 0) == ""
    right, placed = jc.conv, jax.device_put

    def wrong(x, kernel, **options):
        y = right(x, kernel, **options)
        # One NaN reaches all, though multiplied by zero; or ranks are promoted.
        return y + 0 * x.sum() if kind == "nan" else y + jnp.ones(y.shape[-1:])

    if kind == "mesh":
        monkeypatch.setattr(jax, "device_put", lambda a, where: placed(a + 0.1, where))
    else:
        monkeypatch.setattr(jc, "conv", wrong)
    assert stress_ops.check(kind, call, 0)


@pytest.mark.slow
def test_it_sees_a_child_that_dies(monkeypatch):
    monkeypatch.setitem(stress.CHECKED, "LD_PRELOAD", "")
    monkeypatch.setitem(stress.CHECKED, "JAX_PLATFORMS", "no such platform")
    _, counts, wrong = stress.watched(0, 5, None, 60)
    assert not counts
    assert "ended with" in wrong[0]["wrong"]
