"""Small models with explicit gradients over one flat vector of parameters.

A model is made from the shape of a sample and the number of classes, as `MODELS[name](sample_shape,
classes)`.
"""

from collections.abc import Callable

from hpcdist.models.convnet import ConvNet
from hpcdist.models.mlp import MLP, Softmax
from hpcdist.models.model import Model, Shape

MODELS: dict[str, Callable[[Shape, int], Model]] = {"softmax": Softmax, "mlp": MLP, "convnet": ConvNet}

__all__ = ["MLP", "MODELS", "ConvNet", "Model", "Softmax"]
