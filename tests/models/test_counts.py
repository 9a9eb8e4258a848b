"""Parameters and multiply-adds as torchvision publishes them, and the page that lists them."""

import pytest

import jaxconv as jc
from experiments.docs import zoo
from tests.models.zoo import KNOWN

SMALLEST = [known.name for known in KNOWN if known.smallest]


def agrees(name):
    """Exactly in parameters; in multiply-adds to 1 %, or to half of the last digit that is published."""
    wanted = zoo.published()[name]
    parameters, macs = zoo.counts(name)
    assert parameters == wanted["parameters"]
    assert abs(macs - wanted["gmacs"]) <= max(0.01 * wanted["gmacs"], 0.0005)


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_of_each_family_has_the_published_counts(name):
    agrees(name)


@pytest.mark.slow
def test_all_have_the_published_counts_and_the_page_lists_them():
    for name in zoo.published():
        agrees(name)
    assert zoo.PAGE.read_text() == zoo.HEAD + "\n".join(map(zoo.row, zoo.published())) + "\n"


def test_each_line_of_the_page_is_a_call_that_gives_its_network():
    lines = zoo.PAGE.read_text().splitlines()
    calls = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert {"googlenet(aux_logits=False)", "inception_v3()", "fcn_resnet50(aux_loss=True)"} <= set(calls)
    assert len(calls) == len(zoo.published())
    for call, name in zip(calls, zoo.published(), strict=True):
        assert eval(call, vars(jc.models)) == getattr(jc.models, name)(**zoo.options(name))
