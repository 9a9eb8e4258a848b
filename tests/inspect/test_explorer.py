"""The explorer's folder, and its pages in a headless browser."""

import json
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxconv as jc
from experiments.docs import browser
from jaxconv.inspect import explore
from jaxconv.inspect.explorer import build, plan, steps
from tests.nets import ready

SHAPE = (5, 24, 20, 3)
OPTIONS = {"units": 3, "patches": 2, "shown": 2, "size": 16, "steps": 2, "batch_size": 2, "progress": False}


def network():
    return jc.serial(
        stem=jc.serial(jc.Conv(4, stride=2), jc.BatchNorm(), jax.nn.relu),
        block=jc.residual(jc.serial(conv=jc.Conv(4), relu=jax.nn.relu)),
        branches=jc.concat(jc.Conv(2, 1), jc.Conv(3)),
        pool=jc.GlobalAvgPool(),
        fc=jc.Dense(2),
    )


def halved(images):
    return 2 * images - 1


@pytest.fixture(scope="module")
def given():
    net = network()
    params, state, _ = ready(net, (1, *SHAPE[1:]))
    images = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    return net, params, state, images


def made_in(out, given, **options):
    return explore(*given, out, preprocess=halved, names=["<cat>", "dog"], title="A & B", **(OPTIONS | options))


@pytest.fixture(scope="module")
def page(given, tmp_path_factory):
    return made_in(tmp_path_factory.mktemp("explorer") / "out", given)


@pytest.fixture(scope="module")
def content(page):
    return json.loads(re.fullmatch(r"const EXPLORER = (.*);\n", (page.parent / "data.js").read_text()).group(1))


# --- What is in the folder --------------------------------------------------------------------------------------------


def test_blocks_and_layers_with_a_kernel_are_explored(content):
    layers = [(layer["path"], [unit["channel"] for unit in layer["units"]]) for layer in content["layers"]]
    assert layers == [("stem", [0, 1, 2]), ("block", [0, 1, 2]), ("branches", [0, 1, 3]), ("fc", [0, 1])]
    assert [unit["name"] for unit in content["layers"][-1]["units"]] == ["<cat>", "dog"]


@pytest.mark.parametrize(
    ("net", "shape", "paths"),
    [
        (jc.models.efficientnet_lite0(), (1, 64, 64, 3), ["_bn0", *(f"_blocks.{i}" for i in range(16)), "_bn1", "_fc"]),
        (jc.models.vgg11(), (1, 64, 64, 3), [f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)] + ["classifier"]),
        (
            jc.models.resnet18(),
            (1, 64, 64, 3),
            ["bn1", *(f"layer{i}.{j}" for i in range(1, 5) for j in range(2)), "fc"],
        ),
    ],
    ids=["efficientnet_lite0", "vgg11", "resnet18"],
)
def test_paths_of_real_networks(net, shape, paths):
    assert plan.default_paths(net) == paths


def test_the_network_is_a_tree_with_shapes(content):
    nodes = content["network"]["inside"]
    assert [(n["name"], n["shape"]) for n in nodes] == [
        ("stem", [12, 10, 4]), ("block", [12, 10, 4]), ("branches", [12, 10, 5]), ("pool", [5]), ("fc", [2]),
    ]  # fmt: skip
    assert [n.get("arrangement") for n in nodes] == ["serial", "residual", "branches", None, None]
    assert [n["name"] for n in nodes[1]["inside"]] == ["conv", "relu"]


def test_top_patches_and_distributions_are_those_of_the_layer(content, given):
    net, params, state, images = given
    top = jc.inspect.top_patches(*given, "block", k=2, channels=[0, 1, 2], preprocess=lambda x: halved(x / 255.0))
    x = halved(images / 255.0).astype(np.float32)
    outputs = np.asarray(jc.inspect.activations(net, params, state, x, paths=["block"])[1]["block"])
    for c, unit in enumerate(content["layers"][1]["units"]):
        assert [row[0] for row in unit["top"]] == top.images[c].tolist()
        np.testing.assert_allclose([row[1] for row in unit["top"]], top.scores[c], rtol=1e-5)
        assert [row[2:6] for row in unit["top"]] == top.boxes[c].reshape(2, 4).tolist()
        counts = unit["histogram"]["counts"]
        assert sum(counts) == len(images) * min(steps._SAMPLES, 12 * 10)
        assert outputs[..., c].min() - 1e-5 <= unit["histogram"]["low"] < unit["histogram"]["high"]
        assert unit["histogram"]["high"] <= outputs[..., c].max() + 1e-5


def test_the_units_that_feed_a_unit_are_those_with_the_largest_products(content, given):
    _, params, state, images = given
    # The scores are a linear function of the pooled channels.
    top = content["layers"][3]["units"][1]["top"]
    kernel = np.asarray(params["fc"]["kernel"])[:, 1]
    total = np.zeros(5)
    for image, *_ in top:
        x = halved(images[image : image + 1] / 255.0).astype(np.float32)
        found = jc.inspect.activations(network(), params, state, x, paths=["pool"])[1]["pool"]
        total += np.asarray(found)[0] * kernel
    want = total / np.abs(total).sum()
    feeds = content["layers"][3]["units"][1]["feeds"]
    assert {layer for layer, *_ in feeds} == {2}
    np.testing.assert_allclose([share for *_, share in feeds], [want[c] for _, c, _ in feeds], atol=2e-3)
    assert [c for _, c, _ in feeds] == np.argsort(-np.abs(want), kind="stable")[: len(feeds)].tolist()
    assert all(unit["feeds"] == [] for unit in content["layers"][0]["units"])


def test_scores_are_those_of_the_network(content, given):
    net, params, state, images = given
    y, _ = net.apply(params, state, jnp.asarray(halved(images[:2] / 255.0), jnp.float32))
    for row, entry in zip(np.asarray(y), content["shown"], strict=True):
        np.testing.assert_allclose([score for *_, score in entry["scores"]], np.sort(row)[::-1], rtol=1e-4)


def test_all_files_are_there_and_nothing_of_the_outside(page, content):
    folder = page.parent
    files = {unit["image"] for layer in content["layers"] for unit in layer["units"]} - {None}
    files |= {entry["heat"] for entry in content["shown"]} | set(content["files"].values())
    assert files
    for file in files:
        with Image.open(folder / file) as image:
            image.load()
    with Image.open(folder / content["files"]["0"]) as image:
        assert image.size == (20, 24)
    assert not list(folder.rglob("*.partial"))
    for file in ("index.html", "explorer.css", "explorer.js"):
        text = (folder / file).read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text
    assert "A &amp; B" in page.read_text()
    assert "<cat>" not in (folder / "data.js").read_text()


# --- Interrupted and repeated runs ------------------------------------------------------------------------------------


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".png", ".jpg")}


def test_an_interrupted_run_goes_on(given, tmp_path, monkeypatch):
    calls = []
    whole = steps.maximize

    def interrupted(*args, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args[4].__class__)
        return whole(*args, **options)

    monkeypatch.setattr(steps, "maximize", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        made_in(out, given)
    assert not (out / "index.html").exists()
    before = times(out)
    monkeypatch.setattr(steps, "maximize", lambda *args, **options: calls.append(0) or whole(*args, **options))
    monkeypatch.setattr(steps, "survey", lambda *_: pytest.fail("the survey was complete"))
    made_in(out, given)
    # 3, 3, 3 and 2 units in chunks of 2: two of seven were complete.
    assert len(calls) == 7
    assert {path: when for path, when in times(out).items() if path in before} == before
    after = times(out)
    monkeypatch.setattr(steps, "maximize", lambda *_, **__: pytest.fail("all was complete"))
    made_in(out, given)
    assert times(out) == after


def test_a_folder_that_holds_something_else_is_left_alone(given, tmp_path, page):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(jc.ArgumentError, match=r"out must be a new or empty folder, or .* which holds thesis.tex"):
        made_in(tmp_path, given)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(jc.ArgumentError, match="out must be a folder, got the file"):
        made_in(tmp_path / "thesis.tex", given)
    with pytest.raises(jc.ArgumentError, match=r"which holds an explorer with other images, steps"):
        made_in(page.parent, (*given[:3], given[3][:4]), steps=3)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "explorer.json").write_text("[]")
    with pytest.raises(jc.ArgumentError, match=r"out must be a folder of an explorer, got .*explorer.json"):
        made_in(tmp_path / "b", given)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (
            np.zeros((0, 8, 8, 3), np.uint8),
            {},
            r"images must have shape \(count, height, width, 1 or 3\), with at least",
        ),
        (np.zeros((8, 8, 3), np.uint8), {}, r"images must have shape .* got \(8, 8, 3\)"),
        (np.zeros((2, 8, 8, 3), np.int64), {}, "images must be uint8 or floats in .* got int64"),
        (np.full((2, 8, 8, 3), 2.0), {}, "images must be uint8 or floats in .* got 2 to 2"),
        (np.zeros((2, 8, 8, 1), np.uint8), {}, r"stem.0 \(Conv\): kernel"),
        (None, {"paths": ["stam"]}, "path must name a layer of net, got 'stam'"),
        (None, {"paths": []}, "paths must name layers to explore, got none"),
        (None, {"names": ["a"]}, r"names must be one for each class .* got 1 for an output \(1, 2\)"),
        (None, {"units": 0}, "units must be at least 1, got 0"),
        (
            None,
            {"preprocess": lambda x: x[:, ::2]},
            r"preprocess must keep the images' size \(24, 20\), got \(12, 20\)",
        ),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(images, options, message, given, tmp_path):
    model, images = given[:3], given[3] if images is None else images
    with pytest.raises(ValueError, match=message):
        explore(*model, images, tmp_path / "out", **(OPTIONS | options))
    assert not (tmp_path / "out").exists()


def test_a_network_of_one_size_has_preferred_inputs_of_that_size(tmp_path):
    net = jc.serial(conv=jc.Conv(2), relu=jax.nn.relu, flatten=jc.Flatten(), fc=jc.Dense(2))
    params, state, _ = ready(net, (1, 20, 20, 1))
    page = explore(net, params, state, np.zeros((2, 20, 20, 1)), tmp_path / "out", **OPTIONS | {"size": 16})
    with Image.open(next((page.parent / "units").glob("0-*"))) as image:
        assert image.size == (16, 16)  # without the rim of an eighth on each side


def test_a_unit_that_does_not_fire_has_no_image(tmp_path):
    net = jc.serial(conv=jc.serial(jc.Conv(2), jax.nn.relu), pool=jc.GlobalAvgPool())
    params = {"conv": {"0": {"kernel": jnp.zeros((3, 3, 3, 2)), "bias": jnp.array([1.0, -1.0])}}}
    page = explore(net, params, {}, np.ones((2, 8, 8, 3)), tmp_path / "out", **OPTIONS)
    assert "null" in (page.parent / "parts" / "preferred-0-0.json").read_text()


# --- In a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(page):
    if browser.find() is None:
        pytest.skip("Chromium is not installed")
    with browser.Browser() as opened:
        opened.open(page)
        yield opened


def heading(opened):
    return opened.evaluate("document.querySelector('h1').textContent")


def expect(opened, title):
    opened.wait_for(f"document.querySelector('h1') && document.querySelector('h1').textContent === {json.dumps(title)}")


def images_load(opened):
    script = """Promise.all([...document.querySelectorAll('img, image')].map((each) => new Promise((done) => {
      const image = new Image(); image.onload = () => done(true); image.onerror = () => done(false);
      image.src = each.getAttribute('src') || each.getAttribute('href');
    }))).then((all) => [all.length, all.every(Boolean)])"""
    return opened.evaluate(script)


def test_a_reader_clicks_from_the_network_to_a_unit_and_an_image(opened):
    expect(opened, "Network")
    opened.click("a[href='#layer/1']")
    expect(opened, "block")
    assert opened.evaluate("document.activeElement.tagName") == "H1"
    assert images_load(opened)[1]
    opened.click("a[href='#unit/1/1']")
    expect(opened, "block, channel 1")
    count, all_load = images_load(opened)
    assert (count, all_load) == (1 + 2 * 2, True)
    assert opened.evaluate("document.querySelectorAll('.field').length") == 4
    opened.click("td a[href^='#unit/0/']")
    opened.wait_for("document.querySelector('h1').textContent.startsWith('stem, ')")
    opened.click("header a[href='#images']")
    expect(opened, "Images")
    opened.click("a[href='#image/1']")
    expect(opened, "Image 1")
    assert opened.evaluate("document.querySelectorAll('.responses > li').length") == 4
    assert images_load(opened)[1]
    assert "<cat>" in opened.evaluate("document.querySelector('main table').textContent")
    opened.evaluate("history.back()")
    expect(opened, "Images")
    opened.evaluate("location.hash = 'unit/9/9'")
    expect(opened, "Not found")
    opened.click("main a[href='#network']")
    expect(opened, "Network")
    assert opened.errors == []


def test_the_chosen_image_stays_chosen(opened):
    opened.evaluate("location.hash = 'layer/0'")
    expect(opened, "stem")
    opened.evaluate(
        "(() => { const s = document.querySelector('select'); s.value = 1; s.dispatchEvent(new Event('change')); })()"
    )
    opened.evaluate("location.hash = 'layer/2'")
    expect(opened, "branches")
    assert opened.evaluate("document.querySelector('select').value") == "1"
    assert (
        "image 1"
        in opened.evaluate("document.querySelector('.pair svg:last-of-type').getAttribute('aria-label')").lower()
    )
    assert opened.errors == []


def test_the_keyboard_is_enough(opened):
    opened.evaluate("location.hash = 'network'")
    expect(opened, "Network")
    for _ in range(40):
        opened.press("Tab")
        if opened.evaluate("document.activeElement.getAttribute('href')") == "#layer/0":
            break
    opened.press("Enter")
    expect(opened, "stem")
    opened.press("ArrowRight")
    expect(opened, "block")
    opened.press("ArrowLeft")
    expect(opened, "stem")
    assert opened.errors == []


@pytest.mark.parametrize("address", ["network", "layer/1", "unit/1/1", "images", "image/0"])
def test_all_that_a_screen_reader_meets_has_a_name(address, opened):
    opened.evaluate(f"location.hash = '{address}'")
    time.sleep(0.2)
    nodes = opened.accessible()
    named = {"link", "button", "image", "img", "combobox", "heading", "DisclosureTriangle", "figure"}
    unnamed = [node for node in nodes if node["role"] in named - {"figure"} and not node["name"].strip()]
    assert unnamed == []
    roles = {node["role"] for node in nodes}
    assert {"main", "navigation", "heading", "link"} <= roles
    assert sum(node["role"] == "heading" for node in nodes) >= 1
    assert opened.evaluate("document.documentElement.lang") == "en"


def test_pages_are_in_the_package():
    folder = Path(build.__file__).parent
    assert {"index.html", "explorer.css", "explorer.js"} <= {path.name for path in folder.iterdir()}
