"""Figures with matplotlib. Each function returns a Figure, made without pyplot."""

from jaxconv.extras import missing as _missing

if _error := _missing("jaxconv.inspect.figures", "matplotlib", extra="viz"):
    raise _error

from jaxconv.inspect.figures.charts import confusion_matrix, layer_statistics, learning_curves, scatter
from jaxconv.inspect.figures.objects import boxes, poses
from jaxconv.inspect.figures.overlays import fields, heat_maps
from jaxconv.inspect.figures.pictures import activation_maps, filters, images, mosaic, neighbors, patches

__all__ = [
    "activation_maps",
    "boxes",
    "confusion_matrix",
    "fields",
    "filters",
    "heat_maps",
    "images",
    "layer_statistics",
    "learning_curves",
    "mosaic",
    "neighbors",
    "patches",
    "poses",
    "scatter",
]


def __dir__() -> list[str]:
    return sorted(__all__)
