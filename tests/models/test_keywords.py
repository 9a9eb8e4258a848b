"""Every model function shows the keywords that it takes, and passes each of them on."""

import importlib
import inspect

import pytest

import jaxconv as jc

FAMILIES = [name for name in jc.models.__all__ if inspect.isfunction(getattr(jc.models, name))]


def family_of(name):
    """The public function of the same module that a function calls, or None."""
    function = getattr(jc.models, name)
    called = [n for n in function.__code__.co_names if n in FAMILIES]
    return next((n for n in called if getattr(jc.models, n).__module__ == function.__module__), None)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_function_shows_its_keywords(name):
    parameters = inspect.signature(getattr(jc.models, name)).parameters.values()
    kinds = {p.kind for p in parameters}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert inspect.Parameter.VAR_POSITIONAL not in kinds
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters)


# The two others are families themselves, with arguments of their own.
SIZES = {name: family for name in FAMILIES if (family := family_of(name)) and name not in ("regnet", "cifar_resnet")}


def test_most_model_functions_are_sizes_of_a_family():
    assert len(SIZES) > 60
    assert SIZES["resnet50"] == "resnet"
    assert SIZES["resnet20"] == "cifar_resnet"


@pytest.mark.parametrize("name", SIZES)
def test_a_size_passes_every_keyword_to_its_family(name, monkeypatch):
    function = getattr(jc.models, name)
    module = importlib.import_module(function.__module__)
    family = getattr(module, SIZES[name])
    got = {}

    def record(*args, **kwargs):
        got.update(inspect.signature(family).bind(*args, **kwargs).arguments)

    monkeypatch.setattr(module, SIZES[name], record)
    own = [p.name for p in inspect.signature(function).parameters.values() if p.name != "aux_loss"]
    given = {argument: object() for argument in own}
    if SIZES[name] in ("fcn", "deeplabv3"):
        given = {argument: number for number, argument in enumerate(own, 1)}
    function(**given)
    assert {argument: got[argument] for argument in own} == given
    keyword_only = [p.name for p in inspect.signature(family).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert set(keyword_only) <= got.keys()
