"""The import, the public names and their docstrings."""

import ast
import graphlib
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxconv as jc

OPS = """conv conv_transpose conv_local conv_general_dilated dense max_pool max_pool_with_indices max_unpool avg_pool
    lp_pool global_avg_pool global_max_pool global_lp_pool global_gem_pool adaptive_avg_pool adaptive_max_pool
    batch_norm batch_statistics layer_norm group_norm instance_norm local_response_norm unit_norm pad resize
    pixel_shuffle channel_shuffle dropout drop_path"""
BOXES = """anchor_grid batched_nms box_area box_convert box_iou box_levels check_boxes clip_boxes complete_box_iou
    decode_boxes decode_distances default_boxes distance_box_iou encode_boxes encode_centers encode_distances
    encode_heatmap gaussian_radius generalized_box_iou heatmap_peaks masks_to_boxes match_atss match_boxes
    match_centers multiscale_roi_align nms polygon_masks roi_align roi_pool soft_argmax soft_nms star_distances
    star_polygons"""
LAYERS = """Conv ConvTranspose ConvLocal Dense MaxPool AvgPool LpPool GlobalAvgPool GlobalMaxPool GlobalGemPool
    AdaptiveAvgPool AdaptiveMaxPool Flatten BatchNorm LayerNorm GroupNorm InstanceNorm LocalResponseNorm Dropout
    DropPath LayerScale PReLU UnitNorm Pad Resize PixelShuffle ChannelShuffle Identity Fn"""
COMBINATORS = """serial parallel concat split frozen gate residual inline repeat remat mixed_precision map_layers
    auxiliary backbone each fpn heads on_map resized top_down"""
OTHERS = (
    "fold fold_report predictor conv_output_size conv_transpose_output_size summary jit lowering explain convs_saveable"
)
EXAMPLES = f"{OPS} {BOXES} {LAYERS} {COMBINATORS} {OTHERS}".split()
TYPES = ["Layer", "ArgumentError", "PathError", "ShapeError", "DTypeError", "MissingKeyError", "ParameterError"]


def in_a_new_process(code):
    """What the code prints as JSON, in a Python that has imported nothing yet."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_import_brings_jax_and_numpy_only():
    modules, fresh, backends = in_a_new_process("""
import json, sys, sysconfig
import jax, numpy
before = set(sys.modules)
import jaxconv
from jax._src import xla_bridge
print(json.dumps([
    sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)),
    sorted(name for name in sys.modules if name.startswith("jaxconv.") and name.count(".") == 1),
    xla_bridge.backends_are_initialized(),
]))
""")
    assert [name for name in modules if name not in ("jax", "jaxlib", "numpy", "jaxconv")] == []
    assert not {"jaxconv.data", "jaxconv.train", "jaxconv.inspect"} & set(fresh)
    assert backends is False


def test_what_looks_in_needs_nothing_more():
    names, backends = in_a_new_process("""
import json, sys
import jaxconv as jc
net = jc.serial(jc.Conv(8), jc.BatchNorm(), jc.remat(jc.Identity()))
jc.summary, jc.inspect.activations
from jax._src import xla_bridge
print(json.dumps([sorted({name.partition(".")[0] for name in sys.modules}), xla_bridge.backends_are_initialized()]))
""")
    assert not {"optax", "orbax", "matplotlib", "PIL", "tqdm", "flax", "pandas"} & set(names)
    assert backends is False


@pytest.mark.parametrize("name", [*EXAMPLES, *TYPES])
def test_public_names_are_there(name):
    assert hasattr(jc, name)
    assert name in dir(jc)


def test_the_dropins_signature_is_that_of_lax():
    ours, theirs = (inspect.signature(f) for f in (jc.conv_general_dilated, jax.lax.conv_general_dilated))
    assert list(ours.parameters) == list(theirs.parameters)


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstrings_say_what_and_show_it(name):
    doc = inspect.getdoc(getattr(jc, name))
    summary = doc.splitlines()[0]
    assert summary.endswith(".") or doc.split("\n\n")[0].rstrip().endswith(".")
    assert ">>> " in doc


@pytest.mark.parametrize("name", ["activations", "receptive_field", "summary", "trace"])
def test_docstrings_of_what_looks_in_show_it_too(name):
    assert ">>> " in inspect.getdoc(getattr(jc.inspect, name))


@pytest.mark.parametrize("name", "data detect inspect instances interop losses metrics models train weights".split())
def test_sub_packages_load_when_asked_for(name):
    assert getattr(jc, name) is importlib.import_module(f"jaxconv.{name}")
    assert name in dir(jc)


def test_what_is_not_there_is_named():
    with pytest.raises(AttributeError, match="module 'jaxconv' has no attribute 'Convolution'"):
        jc.Convolution  # noqa: B018


def test_public_names_are_listed_once():
    """Each module's __all__ is true, and no two of them export different things by one name."""
    owners = {}
    modules = """backbones compose compose.maps compose.structure compose.wrappers composite geometry layer layers.conv
        layers.noise layers.norm layers.pool layers.shape ops.anchors ops.boxes ops.conv ops.dense ops.dropin
        ops.dropout ops.heatmaps ops.nms ops.norm ops.offsets ops.overlaps ops.pad ops.polygons ops.regions
        ops.pools.adaptive ops.pools.average ops.pools.maximum ops.pools.unpool ops.resize pyramid search tree"""
    for module in modules.split():
        loaded = importlib.import_module(f"jaxconv.{module}")
        for name in getattr(loaded, "__all__", ()):
            assert hasattr(loaded, name), (module, name)
            assert owners.setdefault(name, getattr(loaded, name)) is getattr(loaded, name), (module, name)
            assert getattr(jc, name) is getattr(loaded, name), (module, name)
    assert len(owners) > 60


SUBPACKAGES = """compose data detect inspect inspect.figures instances interop layers losses metrics models ops
    train weights"""
PACKAGES = ["", *SUBPACKAGES.split()]


@pytest.mark.parametrize("package", PACKAGES)
def test_dir_lists_public_names_once_and_nothing_else(package):
    loaded = importlib.import_module(f"jaxconv.{package}".rstrip("."))
    names = dir(loaded)
    assert len(names) == len(set(names))
    subpackages = {"": {*jc._PACKAGES}, "inspect": {"figures"}, "interop": {"flax", "onnx", "tfjs"}}.get(package, set())
    modules = {name for name in names if inspect.ismodule(getattr(loaded, name))}
    assert modules == subpackages
    public = {name for name in names if not name.startswith("_")}
    lazy = set(jc._LAZY) if not package else set()
    assert public - subpackages - lazy == set(loaded.__all__)
    assert all(name in vars(loaded) for name in public - subpackages - lazy)


@pytest.mark.parametrize("package", ["ops", "layers", "compose", "detect", "losses", "models"])
def test_a_package_exports_what_its_modules_export(package):
    loaded = importlib.import_module(f"jaxconv.{package}")
    folder = Path(loaded.__file__).parent
    sources = [
        importlib.import_module(".".join(["jaxconv", package, *path.relative_to(folder).with_suffix("").parts]))
        for path in folder.rglob("[a-z]*.py")
    ]
    listed = {name for module in sources for name in getattr(module, "__all__", ())}
    assert set(loaded.__all__) <= listed
    assert set(loaded.__all__) == {name for name in listed if hasattr(loaded, name)}


def test_a_submodule_does_not_hide_a_function_of_the_front_door():
    """`jaxconv.inspect.summary` is the function, whatever is imported first."""
    code = "import json, jaxconv.inspect.table, jaxconv as jc; print(json.dumps([callable(jc.inspect.summary), "
    code += "callable(jc.summary), jc.summary is jc.inspect.summary]))"
    assert in_a_new_process(code) == [True, True, True]
    package = Path(jc.__file__).parent
    modules = {path.stem for path in package.glob("*/*.py")} - {"__init__"}
    assert not modules & set(jc._LAZY)


# Lowest first. Modules of one line do not import each other, but for those of the last line.
ORDER = """
    errors extras keys leftovers names tokens
    geometry pointwise
    fields layer
    ops structs described paths tree
    capture search
    child
    composite
    layers compiler equal_batches data instances losses metrics patch search
    compose
    backbones dataflow
    folding fusing
    packing pyramid tiles
    predict
    detect
    models interop weights inspect train
"""


def test_imports_go_down_only():
    package = Path(jc.__file__).parent
    heights = {name: height for height, line in enumerate(ORDER.split("\n")) for name in line.split()}
    last, wrong = max(heights.values()), []
    for path in package.rglob("*.py"):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxconv."):
                other = node.module.split(".")[1]
                if other != own and not (heights[other] < heights[own] or heights[other] == heights[own] == last):
                    wrong.append(f"{path.relative_to(package)} imports {node.module}")
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count too; those of the front door, which loads packages when they are used, do not.

    Without ``ops``, where an algorithm calls others through the table that chooses it.
    """
    package = Path(jc.__file__).parent
    sources = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in package.rglob("*.py")
        if "ops" not in path.parts
    }
    del sources["jaxconv"]
    imported = {}
    for name, source in sources.items():
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module]
        named = [f"{node.module}.{alias.name}" for node in nodes for alias in node.names]
        imported[name] = {n if n in sources else n.rpartition(".")[0] for n in named} & sources.keys()
    try:
        assert set(graphlib.TopologicalSorter(imported).static_order()) == set(sources)
    except graphlib.CycleError as error:
        raise AssertionError(f"a circle of imports: {' <- '.join(error.args[1])}") from None
