"""The documentation: all that is public is in it, and it is made of what is there."""

import doctest
import fnmatch
import html.parser
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import types
from urllib.parse import unquote, urldefrag

import pytest

import jaxconv as jc
from experiments.docs import DOCS, ROOT, docstrings, notebooks, peers, pictures, reference

# What a public name may lack, by the reason. Stars stand for any text.
ERRORS = "ArgumentError DTypeError MissingKeyError ParameterError PathError ShapeError *.*Error"
RETURNED = """fields.Field fields.InexactField data.Batches data.Captions data.Dataset data.ImageCache
    inspect.Atlas inspect.Concept inspect.LayerStatistics inspect.Neighbors inspect.Pca inspect.Row
    inspect.SanityCheck inspect.Summary inspect.Tcav inspect.TopPatches inspect.Whitening detect.Detections
    detect.Faces train.FitResult weights.Comparison"""
NO_FORMULA = {
    "errors": ERRORS,
    "records that functions return": RETURNED,
    "networks: composed of layers, which have their formulas": "models.*",
    "detectors: composed of ops, which have their formulas": "detect.*",
    "figures": "inspect.figures.*",
    "layers and tools of any function, which compute nothing of their own": """Layer Composite Run Fn Identity Flatten
        map_layers inline shared each heads backbone fpn auxiliary on_map resized top_down frozen remat
        mixed_precision jit explain lowering patch_lax convs_saveable fold_report predictor""",
    "files and data sets": """data.batches data.cifar10 data.coco_captions data.fashion_mnist data.flickr8k
        data.galaxy10 data.gtsrb data.ImageFolder data.image_cache data.image_folder data.mnist5k data.read_idx
        data.read_image data.read_video data.split data.VideoFolder data.video_folder train.save
        train.restore""",
    "words": "data.Vocabulary data.vocabulary",
    "draws of where to cut, flip or cover": """data.random_* data.cutout data.CenterCrop data.RandomResizedCrop
        data.draw_* data.Affine""",
    "draws of colors and operations": "data.color_jitter data.rand_augment",
    "weights and modules from one library to another": "weights.* interop.*",
    "loops over batches with the loss that they are given": """train.fit train.train_step train.evaluate train.predict
        train.predict_tiled train.TrainState inspect.minimize inspect.Recorder""",
    "what a run does beside training, and a metric of the caller's": """train.csv_file train.early_stopping
        train.json_lines train.tensorboard train.data_shard train.initialize_distributed metrics.Metric metrics.add""",
    "what a network holds or gives, as it is": """inspect.activations inspect.explore inspect.filters inspect.summary
         inspect.trace""",
    "settings": "inspect.Objective inspect.PIXELS inspect.PHOTOGRAPHS inspect.Rule inspect.View",
    "algorithms of scipy, scikit-image and stardist on the host": "instances.*",
}
NO_PEER = {
    "errors": ERRORS,
    "records that functions return": RETURNED,
    "draws of the function of that name, which has its peer": "data.draw_[!a]* data.Affine",
    "to a peer and back": "interop.flax.* interop.onnx.* interop.tfjs.*",
    "of what only jaxconv has": "fold_report predictor",
}
NO_EXAMPLE = {
    "errors": ERRORS,
    "records: in the example of what returns them": RETURNED.replace("data.Dataset", "").replace("data.Captions", ""),
    "sizes of a family, whose function has the example": "models.*_* models.*[0-9]*",
    "made by the functions of models, which have the examples": """detect.Detector detect.RetinaNet detect.FCOS
        detect.SSD detect.RCNN detect.CenterNet detect.NanoDet detect.PoseNet detect.RegionRules""",
    "protocols: every layer is an example, and that of Composite": "Layer Run",
    "a state: in the example of train_step": "train.TrainState",
    "the other half of save, in its example": "weights.load train.restore",
    "wants the network": "weights.from_hub",
    "wants torch": "weights.torch_activations",
    "a constant": "inspect.PHOTOGRAPHS",
    "wants other processes": "train.initialize_distributed",
    "the loop inside maximize, dream, invert and style_transfer, which have examples": "inspect.minimize",
}


def lacking(has, excused):
    """The public names for which ``has`` is false, but for those excused; and what excuses no name that lacks it."""
    lack = {entry.path.removeprefix("jaxconv.") for entry in reference.public() if not has(entry)}
    patterns = [pattern for names in excused.values() for pattern in names.split()]
    found = {pattern: set(fnmatch.filter(lack, pattern)) for pattern in patterns}
    return sorted(lack.difference(*found.values())), [pattern for pattern, names in found.items() if not names]


def names_its_equal(entry):
    text = inspect.getdoc(reference.value_of(entry))
    return bool(
        reference.elsewhere(entry) or re.search(r"^Equals `+(torch\w*|captum|sklearn|pytorch_grad_cam)\.", text, re.M)
    )


def written():
    """All ways to write what the reference has."""
    return {path for entry in reference.public() for path in (entry.path, *entry.also)}


def test_every_public_name_of_jaxconv_is_in_the_reference():
    names = [n for n in dir(jc) if not n.startswith("_") and not isinstance(getattr(jc, n), types.ModuleType)]
    ours = {f"jaxconv.{n}" for n in names if getattr(getattr(jc, n), "__module__", "").startswith("jaxconv")}
    assert len(ours) > 80
    assert ours <= written()


@pytest.mark.parametrize("package", sorted(jc._PACKAGES))
def test_every_public_name_of_a_sub_package_is_in_the_reference(package):
    loaded = importlib.import_module(f"jaxconv.{package}")
    names = [n for n in reference.names_of(loaded) if not isinstance(getattr(loaded, n), types.ModuleType)]
    assert {f"jaxconv.{package}.{n}" for n in names} <= written()
    assert any(path.startswith(f"jaxconv.{package}.") for path in written())


@pytest.mark.parametrize("module", ["inspect.figures", "interop.flax", "interop.onnx", "interop.tfjs"])
def test_modules_that_load_by_themselves_are_in_the_reference(module):
    names = importlib.import_module(f"jaxconv.{module}").__all__
    assert {f"jaxconv.{module}.{n}" for n in names} <= written()


def test_a_new_name_appears_by_itself(monkeypatch):
    def fresh():
        """Is new."""

    monkeypatch.setattr(jc.data, "fresh", fresh, raising=False)
    monkeypatch.setattr(jc.data, "__all__", [*jc.data.__all__, "fresh"])
    assert "jaxconv.data.fresh" in {entry.path for entry in reference.public.__wrapped__()}
    assert "jaxconv.data.fresh" not in written()


def test_every_name_has_one_entry_on_a_page_of_the_navigation():
    pages = [page for names in reference.sections().values() for page in names]
    assert len(pages) == len(set(pages))
    text = "\n".join(map(reference.page_text, pages))
    entries = re.findall(r"^::: (.+)$", text, flags=re.M)
    assert sorted(entries) == sorted(entry.target for entry in reference.public())
    index = reference.index_text()
    assert not [entry for entry in reference.public() if f"[{entry.target}] | " not in index]
    assert {path.removeprefix("jaxconv.") for path in reference.TITLES} <= set(pages)


def test_every_name_has_a_docstring_whose_parts_are_told_apart():
    for entry in reference.public():
        text = docstrings.markdown(inspect.getdoc(reference.value_of(entry)) or "")
        prose = re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.M | re.S)
        assert prose.strip(), entry.path
        assert ">>>" not in prose, entry.path
        assert not re.search(r"^(Args|Returns|Raises|Examples?):$", prose, flags=re.M), entry.path
        assert reference.first_sentence(entry).endswith("."), entry.path


@pytest.mark.parametrize(
    ("has", "excused"),
    [
        (lambda entry: "$$" in reference.note(entry), NO_FORMULA),
        (names_its_equal, NO_PEER),
        (lambda entry: ">>>" in inspect.getdoc(reference.value_of(entry)), NO_EXAMPLE),
    ],
    ids=["formula", "peer", "example"],
)
def test_every_name_has_its_formula_peer_and_example_or_a_reason_to_have_none(has, excused):
    assert lacking(has, excused) == ([], [])


def test_a_layer_has_what_is_noted_of_its_op():
    entries = {entry.path.removeprefix("jaxconv."): entry for entry in reference.public()}
    for layer, op in (
        ("Conv", "conv"),
        ("GlobalMaxPool", "global_max_pool"),
        ("LocalResponseNorm", "local_response_norm"),
    ):
        assert reference.note(entries[layer]) == reference.note(entries[op])
        assert set(reference.elsewhere(entries[op]).split()) & set(reference.elsewhere(entries[layer]).split())
    both = reference.note(entries["BatchNorm"])
    assert reference.note(entries["batch_norm"]) in both
    assert r"\leftarrow" in both


@pytest.mark.parametrize("name", ["docstrings", "hooks", "peers", "reference"])
def test_examples_are_right(name):
    module = pytest.importorskip(f"experiments.docs.{name}", reason="wants the docs extra")
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    done = doctest.testmod(module, optionflags=flags)
    assert done.attempted
    assert not done.failed


def test_notes_are_of_names_that_are_there():
    assert len(reference.noted()) == len(set(reference.noted())) > 150
    assert set(reference.noted()) <= written()


def test_the_pictures_are_those_that_are_drawn_and_shown():
    files = {path.name for path in (DOCS / "pictures").iterdir()}
    assert files == {f"{name}.svg" for name in pictures.PICTURES}
    assert files == set(re.findall(r"\]\(pictures/(.+?)\)", reference.NOTES.read_text()))
    assert max(path.stat().st_size for path in (DOCS / "pictures").iterdir()) < 80_000


@pytest.mark.parametrize("draw", pictures.PICTURES.values(), ids=pictures.PICTURES)
def test_pictures_are_drawn(draw):
    assert draw().axes


# --- Notebooks --------------------------------------------------------------------------------------------------------


def notebook(tmp_path, *cells):
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}))
    return path


def code(source, *outputs, count=1):
    return {"cell_type": "code", "source": source, "outputs": outputs, "execution_count": count}


def test_a_notebook_becomes_a_page(tmp_path):
    path = notebook(
        tmp_path,
        {"cell_type": "markdown", "source": ["# Layers\n", "See [two](02_two.ipynb)."]},
        code(
            ["print('a')\n", "x"],
            {"output_type": "stream", "name": "stdout", "text": ["\x1b[1ma\x1b[0m\n"]},
            {"output_type": "stream", "name": "stderr", "text": ["noise"]},
            {"output_type": "execute_result", "data": {"text/plain": ["3"], "text/html": ["<b>3</b>"]}},
            {"output_type": "display_data", "data": {"text/plain": "<Figure>", "image/png": "AQID"}},
        ),
        code("", count=None),
        code("'''```'''", {"output_type": "execute_result", "data": {"text/plain": "'```'"}}),
    )
    text, images = notebooks.convert(path)
    assert notebooks.title(path) == "Layers"
    assert text.split("\n\n") == [
        "# Layers\nSee [two](02_two.md).",
        "```python\nprint('a')\nx\n```",
        "```text\na\n```",
        '<div class="output">\n<b>3</b>\n</div>',
        "![Figure](one_1_3.png)",
        "````python\n'''```'''\n````",
        "````text\n'```'\n````\n",
    ]
    assert images == {"one_1_3.png": b"\x01\x02\x03"}


def test_a_notebook_that_failed_or_was_not_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one\.ipynb: cell 0 has not been run"):
        notebooks.convert(notebook(tmp_path, code("1", count=None)))
    failed = {"output_type": "error", "ename": "KeyError", "evalue": "x", "traceback": []}
    with pytest.raises(ValueError, match="the cell failed: KeyError: x"):
        notebooks.convert(notebook(tmp_path, code("1", failed)))


# --- The site ---------------------------------------------------------------------------------------------------------


class Links(html.parser.HTMLParser):
    """What a page links to and loads, and the places that can be linked to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        elif tag in ("img", "script", "iframe", "source") and "src" in attrs:
            self.loads.append(attrs["src"])
        elif tag == "link" and attrs.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(attrs["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(name, reason="wants the docs extra")
    folder = tmp_path_factory.mktemp("site")
    # A proxy that is not there: the build asks the network for nothing.
    nowhere = dict.fromkeys(["http_proxy", "https_proxy", "all_proxy"], "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_all_names_links_and_formulas(site):
    pages = {path: Links(path) for path in site.rglob("*.html")}
    assert len(pages) > 30
    for entry in reference.public():
        page = pages[site / "reference" / f"{entry.page}.html"]
        assert {entry.path, entry.target, *entry.also} <= page.ids

    def place(path, link):
        target = (path.parent / unquote(link)).resolve() if link else path
        return target / "index.html" if target.is_dir() else target

    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.loads:
            assert not re.match(r"(https?:)?//", link), f"{path} loads {link} from elsewhere"
            assert place(path, urldefrag(link)[0]).exists(), f"{path} loads {link}"
        for link in page.links:
            if not re.match(r"\w+:", link):
                file, anchor = urldefrag(link)
                target = place(path, file)
                assert target.exists(), f"{path} links to {link}"
                assert not anchor or target.suffix != ".html" or anchor in pages[target].ids, f"{path} links to {link}"
        text = path.read_text()
        assert 'class="arithmatex"' not in text, path
    formulas = [f for path in pages for f in re.findall(r"<math .*?</math>", path.read_text(), flags=re.S)]
    assert len(formulas) > 30
    assert not [f for f in formulas if "\\" in f]


@pytest.mark.slow
def test_the_site_has_the_pages_that_the_repository_has(site):
    for name in ("from_peers", "speed", "conformance", "changelog", "contributing"):
        assert (site / f"{name}.html").exists()
    assert "ConvNets in JAX as functions of arrays" in (site / "index.html").read_text()
    assert not list(site.rglob("notes*")) + list(site.rglob("*.toml"))
    for path in notebooks.files():
        page = (site / "notebooks" / f"{path.stem}.html").read_text()
        for name in notebooks.convert(path)[1]:
            assert name in page
    for row in peers.rows():
        assert row.section in (site / "from_peers.html").read_text()


def test_what_the_readme_links_to_is_there():
    for link in re.findall(r"\]\((?!\w+:|#)([^)\s]+)\)", (ROOT / "README.md").read_text()):
        file, _, anchor = link.partition("#")
        assert (ROOT / file).is_file(), link
        heads = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), flags=re.M) if anchor else []
        assert not anchor or anchor in {head.lower().replace(" ", "-") for head in heads}, link


def test_one_command_builds_the_site():
    rule = (ROOT / "Makefile").read_text().split("\ndocs:")[1].split("\n\n")[0]
    assert "mkdocs build --strict" in rule
