"""Every model function shows the keywords that it takes, and passes each of them on."""

import importlib
import inspect
import pickle

import pytest

import jaxconv as jc
from jaxconv.models.variants import variant

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


VARIANTS = [name for name in FAMILIES if hasattr(getattr(jc.models, name), "family")]
# The two others are families themselves, with arguments of their own.
SIZES = {name: family for name in FAMILIES if (family := family_of(name)) and name not in ("regnet", "cifar_resnet")}


def test_most_model_functions_are_sizes_of_a_family():
    assert len(VARIANTS) + len(SIZES) > 80
    assert jc.models.resnet50.family is jc.models.resnet
    assert jc.models.resnet20.family is jc.models.cifar_resnet
    assert SIZES["vgg16"] == "vgg"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_a_function_of_its_family_s_last_arguments(name):
    function = getattr(jc.models, name)
    module = importlib.import_module(function.__module__)
    assert getattr(module, name) is function
    assert (function.__name__, function.__qualname__) == (name, name)
    assert pickle.loads(pickle.dumps(function)) is function
    assert function.__doc__.startswith("Returns ")
    own, family = (list(inspect.signature(f).parameters.values()) for f in (function, function.family))
    assert [(p.name, p.kind, p.annotation) for p in own] == [
        (p.name, p.kind, p.annotation) for p in family[-len(own) :]
    ]
    assert all(p.default is not p.empty for p in own)
    assert own[0].name == "classes"


def test_a_variant_has_its_own_defaults_and_obeys_its_arguments():
    calls = []

    def family(depth: int, classes: int = 10, *, width: int = 64, dropout: float = 0.0) -> jc.Layer:
        """Returns a network."""
        calls.append((depth, classes, width, dropout))
        return jc.Identity()

    small = variant("small", "Returns a small network.", family, 3, width=8)
    assert str(inspect.signature(small)).startswith("(classes: int = 10, *, width: int = 8, dropout: float = 0.0)")
    assert (small.__doc__, small.__module__) == ("Returns a small network.", __name__)
    small(), small(5), small(width=2, dropout=0.5)
    assert calls == [(3, 10, 8, 0.0), (3, 5, 8, 0.0), (3, 10, 2, 0.5)]
    with pytest.raises(TypeError, match="unexpected keyword argument 'clases'"):
        small(clases=5)
    with pytest.raises(TypeError, match="defaults must be for arguments of family, got widht"):
        variant("small", "", family, 3, widht=8)


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
