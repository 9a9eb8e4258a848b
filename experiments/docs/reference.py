"""What is public, and a page of reference for each module that defines some of it.

Found by walking the package, so that a new name appears without an entry here.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxconv
from experiments.docs import DOCS, peers, zoo
from experiments.docs.docstrings import markdown

NOTES = DOCS / "notes.md"

# The sections of the reference in their order, and the pages whose title is not their module's name. What is not listed
# comes last.
SECTIONS = {
    "ops": "Ops",
    "layers": "Layers",
    "": "Networks",
    "compose": "Composition",
    "inspect": "Looking in",
    "models": "Models",
    "detect": "Detection",
    "weights": "Weights",
    "data": "Data",
    "train": "Training",
    "losses": "Losses",
    "metrics": "Metrics",
    "instances": "Instances",
    "interop": "Other frameworks",
}
TITLES = {
    "backbones": "Backbones and auxiliary heads",
    "compiler": "Compiling",
    "compose/maps": "Several arrays",
    "compose/structure": "Structure",
    "compose/wrappers": "Wrappers",
    "composite": "Custom composites",
    "detect/dense": "Detectors of one stage",
    "detect/nanodet": "NanoDet",
    "detect/points": "Points and poses",
    "detect/rcnn": "Detectors of two stages",
    "detect/regions": "Proposals and regions",
    "detect/results": "Detections and targets",
    "fields": "Receptive fields",
    "geometry": "Sizes",
    "inspect/table": "Summary",
    "interop/tfjs": "TensorFlow.js",
    "layer": "The layer protocol",
    "metrics/base": "Metrics and classification",
    "ops/anchors": "Anchors and matching",
    "ops/boxes": "Boxes",
    "ops/conv": "Convolution",
    "ops/dropin": "The drop-in",
    "ops/heatmaps": "Heat maps",
    "ops/lowering": "Which program computes an op",
    "ops/nms": "Non-maximum suppression",
    "ops/norm": "Normalization",
    "ops/offsets": "Offsets of boxes",
    "ops/overlaps": "Overlaps of boxes",
    "ops/pad": "Padding",
    "ops/polygons": "Star-convex polygons",
    "ops/pools": "Pooling",
    "ops/regions": "Features of regions",
    "ops/resize": "Resizing and shuffling",
    "layers/conv": "Convolutions and Dense",
    "layers/noise": "Dropout",
    "layers/norm": "Normalization and scales",
    "layers/pool": "Pooling",
    "layers/shape": "Shapes and functions",
    "patch": "Other people's code",
    "pyramid": "Feature pyramids",
    "tree": "Replacing layers",
}
SPELLED = {
    name.lower().replace("-", ""): name
    for name in """AlexNet CAM ConvNeXt ConvNet DenseNet EfficientNet LeNet MNASNet MobileNet NiN RegNet ResNet
    ShuffleNet SqueezeNet U-Net VGG CIFAR IDX MNIST ONNX PyTorch""".split()
}
# What public functions return, and users do not import.
RETURNED = ("jaxconv.fields.Field", "jaxconv.fields.InexactField")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A public name: how users write it (``path``, and ``also`` other ways), and where it is defined (``target``)."""

    path: str
    target: str
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name alone."""
        return self.path.rpartition(".")[2]

    @property
    def page(self) -> str:
        """The page, without its suffix: "ops/conv". That of the module where users find it, or where it is defined."""
        lazy = self.path.count(".") > 2
        parts = (self.path if lazy else self.target).split(".")[1:-1]
        return f"{parts[0]}/package" if parts in [[name] for name in jaxconv._PACKAGES] else "/".join(parts[:2])


def _home(value: Any, module: ModuleType, name: str) -> str:
    home = sys.modules.get(getattr(value, "__module__", None) or "")
    return home.__name__ if home and getattr(home, name, None) is value else module.__name__


def names_of(module: ModuleType) -> list[str]:
    """Returns a module's public names: its ``__all__``, or what it holds of jaxconv's own."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    ours = {n for n, value in vars(module).items() if (getattr(value, "__module__", "") or "").startswith("jaxconv")}
    return sorted(name for name in ours if not name.startswith("_"))


def _public_modules() -> list[ModuleType]:
    """Returns jaxconv, its lazy packages, and the modules that these load when they are asked for."""
    packages = [importlib.import_module(f"jaxconv.{name}") for name in jaxconv._PACKAGES]
    sources = "\n".join(map(inspect.getsource, packages))
    lazy = dict.fromkeys(re.findall(r'import_module\("(jaxconv\.[\w.]+)"\)', sources))
    return [jaxconv, *packages, *map(importlib.import_module, lazy)]


@functools.cache
def public() -> tuple[Entry, ...]:
    """Returns all that is public, in the order of its definition.

    >>> [entry.target for entry in public() if entry.path == "jaxconv.conv"]
    ['jaxconv.ops.conv.conv']
    """
    paths: dict[str, list[str]] = {target: [target] for target in RETURNED}
    for module in _public_modules():
        for name in names_of(module):
            value = getattr(module, name)
            if not inspect.ismodule(value):
                paths.setdefault(f"{_home(value, module, name)}.{name}", []).append(f"{module.__name__}.{name}")
    for name, package in jaxconv._LAZY.items():
        value = getattr(jaxconv, name)
        paths[f"{_home(value, importlib.import_module(f'jaxconv.{package}'), name)}.{name}"].append(f"jaxconv.{name}")
    entries = [Entry(first, target, tuple(also)) for target, (first, *also) in paths.items()]
    return tuple(sorted(entries, key=lambda entry: (entry.page, _line(entry))))


@functools.cache
def _lines(module: str) -> dict[str, int]:
    tree = ast.parse(Path(str(sys.modules[module].__file__)).read_text())
    defined = {node.name: node.lineno for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assigned = {ast.unparse(node.targets[0]): node.lineno for node in tree.body if isinstance(node, ast.Assign)}
    return assigned | defined


def _line(entry: Entry) -> tuple[str, int]:
    module = entry.target.rpartition(".")[0]
    return module, _lines(module).get(entry.name, 0)


def title(page: str) -> str:
    """Returns a page's title."""
    if page in TITLES:
        return TITLES[page]
    first, *rest = (SPELLED.get(word, word) for word in page.rpartition("/")[2].split("_"))
    return " ".join([first[0].upper() + first[1:], *rest])


def sections() -> dict[str, list[str]]:
    """Returns the pages of each section, by its title, both in the order of the navigation."""
    pages = dict.fromkeys(entry.page for entry in public())
    found: dict[str, list[str]] = {}
    for page in pages:
        found.setdefault(page.rpartition("/")[0], []).append(page)
    order = [*SECTIONS, *sorted(found.keys() - SECTIONS.keys())]
    return {SECTIONS.get(key, key.capitalize()): found[key] for key in order if key in found}


def _module(page: str) -> ModuleType:
    return importlib.import_module(".".join(["jaxconv", *page.removesuffix("/package").split("/")]))


def page_text(page: str) -> str:
    """Returns the Markdown of one page; mkdocstrings fills in signatures and docstrings."""
    parts = [f"# {title(page)}", markdown(inspect.getdoc(_module(page)) or "")]
    for entry in public():
        if entry.page == page:
            anchors = "".join(f"[](){{#{path}}}" for path in (entry.path, *entry.also) if path != entry.target)
            heading = entry.path.replace("jaxconv.", "jc.", 1)
            options = f"    options:\n      heading: {heading}\n      toc_label: {entry.name}"
            parts.append(f"{anchors}\n\n::: {entry.target}\n{options}")
    return "\n\n".join(parts) + "\n"


def index_text() -> str:
    """Returns the Markdown of the page that lists all names, each with its docstring's first sentence."""
    parts = [
        "# Reference",
        "Every public name. `import jaxconv as jc`. Below a name is what "
        "peers call it: torch and torchvision, flax, keras, captum, scikit-learn, lucid and others.",
    ]
    for section, pages in sections().items():
        parts.append(f"## {section}")
        rows = [f"| [`{entry.path.replace('jaxconv', 'jc', 1)}`][{entry.target}] | {first_sentence(entry)} |"
                for page in pages for entry in public() if entry.page == page]  # fmt: skip
        parts.append("\n".join(["| | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def value_of(entry: Entry) -> Any:
    """Returns the object itself."""
    module, _, name = entry.target.rpartition(".")
    return getattr(sys.modules[module], name)


def first_sentence(entry: Entry) -> str:
    """Returns the first sentence of a docstring, on one line."""
    paragraph = " ".join((inspect.getdoc(value_of(entry)) or "").split("\n\n")[0].split())
    return re.sub(r"(?<=\.) [A-Z].*", "", paragraph)


@functools.cache
def _notes() -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", NOTES.read_text(), flags=re.M)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def noted() -> list[str]:
    """Returns the paths for which docs/notes.md has a note."""
    return [f"jaxconv.{name}" for heading in _notes() for name in heading.split(", ")]


def _note(entry: Entry) -> tuple[str, str]:
    """Returns the text of docs/notes.md about an op and the layer over it, and the part of it after "Elsewhere: "."""
    own = entry.path.removeprefix("jaxconv.")
    names = {own} if "." in own else {own, peers.op_of(own)}
    texts = [text for heading, text in _notes().items() if names & set(heading.split(", "))]
    prose, _, peer = "\n\n".join(texts).partition("Elsewhere: ")
    return prose.strip(), peer


def note(entry: Entry) -> str:
    """Returns the formula and the picture that are shown below a name; a layer has its op's too.

    >>> conv, layer = (e for e in public() if e.path in ("jaxconv.conv", "jaxconv.Conv"))
    >>> note(conv) == note(layer) and note(conv).startswith("$$")
    True
    """
    return _note(entry)[0].replace("](pictures/", f"]({_up(entry)}pictures/")


def elsewhere(entry: Entry) -> str:
    """Returns what peers call it, by the table of calls, the networks that torchvision has, or docs/notes.md.

    >>> [elsewhere(entry) for entry in public() if entry.path == "jaxconv.models.r3d_18"]
    ['Elsewhere: `torchvision.models.video.r3d_18`.']
    """
    found = peers.equals(entry.name) if entry.path == f"jaxconv.{entry.name}" else []
    if found:
        return f"[Elsewhere]({_up(entry)}from_peers.md): {', '.join(f'`{call}`' for call in found)}."
    if entry.path == f"jaxconv.models.{entry.name}" and entry.name in zoo.published():
        package = {"segmentation": "segmentation.", "video": "video."}.get(zoo.published()[entry.name]["file"], "")
        return f"Elsewhere: `torchvision.models.{package}{entry.name}`."
    peer = _note(entry)[1]
    return f"Elsewhere: {peer}" if peer else ""


def _up(entry: Entry) -> str:
    return "../" * (entry.page.count("/") + 1)
