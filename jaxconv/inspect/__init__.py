"""Interpretability: the structure of a network, its inner activations, and the pixels that its scores depend on.

Pure functions, for use inside jit and vmap: activations, layer_statistics, the attributions and class activation maps,
infidelity, max_sensitivity, scores of objectives, PerceptualLoss, gram, the regularizers, pca, whiten. Loops on the
host, which compile their step once and raise TypeError inside a trace: maximize, caricature, activation_atlas, dream,
invert, style_transfer, minimize, dead_units, top_patches, concept_vector, tcav, sanity_check, embed, nearest,
precision_at_k, mean_average_precision, pca_whitening, explore. All other functions use shapes only, or draw.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from jaxconv.inspect.activations import activations
from jaxconv.inspect.atlas import Atlas, activation_atlas
from jaxconv.inspect.attribution import (
    expected_gradients,
    guided_backprop,
    integrated_gradients,
    occlusion,
    saliency,
    smooth_grad,
)
from jaxconv.inspect.cam import grad_cam, grad_cam_plus_plus
from jaxconv.inspect.caricatures import caricature
from jaxconv.inspect.concepts import Concept, Tcav, concept_vector, tcav
from jaxconv.inspect.descent import NonFiniteGradientError, minimize
from jaxconv.inspect.dreams import dream, octave_sizes
from jaxconv.inspect.explorer import explore
from jaxconv.inspect.fidelity import SanityCheck, infidelity, max_sensitivity, sanity_check
from jaxconv.inspect.images import (
    PHOTOGRAPHS,
    PIXELS,
    Parameterization,
    alpha_norm,
    color_covariance,
    color_matrix,
    total_variation,
)
from jaxconv.inspect.inversion import invert
from jaxconv.inspect.maximization import maximize
from jaxconv.inspect.objectives import Objective, channel, layer, logit, unit
from jaxconv.inspect.relevance import Rule, lrp
from jaxconv.inspect.rescaling import deep_lift
from jaxconv.inspect.retrieval import Neighbors, Pca, embed, mean_average_precision, nearest, pca, precision_at_k
from jaxconv.inspect.statistics import LayerStatistics, Recorder, dead_units, layer_statistics
from jaxconv.inspect.style import PerceptualLoss, fast_style_step, gram, style_transfer
from jaxconv.inspect.table import Summary, summary
from jaxconv.inspect.trace import Row, receptive_field, trace
from jaxconv.inspect.units import TopPatches, filters, top_patches, unit_field
from jaxconv.inspect.views import View
from jaxconv.inspect.whitening import Whitening, pca_whitening, whiten

__all__ = [
    "PHOTOGRAPHS",
    "PIXELS",
    "Atlas",
    "Concept",
    "LayerStatistics",
    "Neighbors",
    "NonFiniteGradientError",
    "Objective",
    "Parameterization",
    "Pca",
    "PerceptualLoss",
    "Recorder",
    "Row",
    "Rule",
    "SanityCheck",
    "Summary",
    "Tcav",
    "TopPatches",
    "View",
    "Whitening",
    "activation_atlas",
    "activations",
    "alpha_norm",
    "caricature",
    "channel",
    "color_covariance",
    "color_matrix",
    "concept_vector",
    "dead_units",
    "deep_lift",
    "dream",
    "embed",
    "expected_gradients",
    "explore",
    "fast_style_step",
    "filters",
    "grad_cam",
    "grad_cam_plus_plus",
    "gram",
    "guided_backprop",
    "infidelity",
    "integrated_gradients",
    "invert",
    "layer",
    "layer_statistics",
    "logit",
    "lrp",
    "max_sensitivity",
    "maximize",
    "mean_average_precision",
    "minimize",
    "nearest",
    "occlusion",
    "octave_sizes",
    "pca",
    "pca_whitening",
    "precision_at_k",
    "receptive_field",
    "saliency",
    "sanity_check",
    "smooth_grad",
    "style_transfer",
    "summary",
    "tcav",
    "top_patches",
    "total_variation",
    "trace",
    "unit",
    "unit_field",
    "whiten",
]

if TYPE_CHECKING:
    from jaxconv.inspect import figures

    __all__ += ["figures"]
else:

    def __getattr__(name):
        """Imports the figures on first use: only they need matplotlib."""
        if name == "figures":
            return _import_module("jaxconv.inspect.figures")
        raise AttributeError(f"module 'jaxconv.inspect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "figures"])
