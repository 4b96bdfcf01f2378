"""A small convolutional net: two 3 x 3 convolutions, average pooling, one linear layer.

Images are [n, height, width, channels]. A convolution is a matrix product with all 3 x 3 patches of the
image laid out as rows (K. Chellapilla et al., "High Performance Convolutional Neural Networks", 2006).
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hpcdist.models.model import Arrays, Model, Shape


def patches(images: np.ndarray) -> np.ndarray:
    """Surroundings 3 x 3 of every pixel, zeros outside: [n, h, w, c] -> [n * h * w, 9 * c]."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2))  # [n, h, w, c, 3, 3]
    n, height, width, channels = images.shape
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * height * width, 9 * channels)


def convolve(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate `images` [n, h, w, c] with `kernel` [3, 3, c, f] -> [n, h, w, f]."""
    flat = patches(images) @ kernel.reshape(-1, kernel.shape[-1])
    return flat.reshape(*images.shape[:3], kernel.shape[-1])


def kernel_gradient(images: np.ndarray, delta: np.ndarray, out: np.ndarray) -> None:
    """Write the gradient by the kernel to `out` [3, 3, c, f], given `delta` [n, h, w, f] by the result."""
    features = delta.shape[-1]
    np.matmul(patches(images).T, delta.reshape(-1, features), out=out.reshape(-1, features))


def image_gradient(delta: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Gradient by the images: `delta` [n, h, w, f] convolved with the kernel turned by half a circle."""
    return convolve(delta, kernel[::-1, ::-1].swapaxes(2, 3))


def pool(images: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels: [n, h, w, c] -> [n, h / 2, w / 2, c]."""
    n, height, width, channels = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def unpool(delta: np.ndarray) -> np.ndarray:
    """Gradient by what `pool` was given: a quarter for each of the four pixels."""
    return (delta / 4).repeat(2, axis=1).repeat(2, axis=2)


class ConvNet(Model):
    """logits = pool(relu(relu(x * K1 + b1) * K2 + b2)) W + b, for images of one channel with even sides."""

    def __init__(self, sample_shape: Shape, classes: int, features: tuple[int, int] = (8, 16)) -> None:
        if len(sample_shape) != 2 or any(side % 2 for side in sample_shape):
            raise ValueError(
                f"convnet: samples must be images [height, width] with even sides, not {sample_shape}; "
                "choose the model mlp or softmax"
            )
        first, second = features
        height, width = sample_shape
        self.shapes = {
            "kernel1": (3, 3, 1, first),
            "bias1": (first,),
            "kernel2": (3, 3, first, second),
            "bias2": (second,),
            "weight": (height // 2 * (width // 2) * second, classes),
            "bias": (classes,),
        }

    def forward(self, weights: Arrays, x: np.ndarray) -> list[np.ndarray]:
        """Images, both convolutions, what the linear layer sees, logits."""
        images = x[..., np.newaxis]
        first = np.maximum(convolve(images, weights["kernel1"]) + weights["bias1"], 0)
        second = np.maximum(convolve(first, weights["kernel2"]) + weights["bias2"], 0)
        flat = pool(second).reshape(len(x), weights["weight"].shape[0])
        return [images, first, second, flat, flat @ weights["weight"] + weights["bias"]]

    def backward(self, weights: Arrays, activations: list[np.ndarray], delta: np.ndarray, gradients: Arrays) -> None:
        """Gradients from the last layer to the first."""
        images, first, second, flat, _ = activations
        np.matmul(flat.T, delta, out=gradients["weight"])
        np.sum(delta, axis=0, out=gradients["bias"])

        n, height, width, features = second.shape
        delta = (delta @ weights["weight"].T).reshape(n, height // 2, width // 2, features)
        delta = unpool(delta) * (second > 0)
        kernel_gradient(first, delta, out=gradients["kernel2"])
        np.sum(delta, axis=(0, 1, 2), out=gradients["bias2"])

        delta = image_gradient(delta, weights["kernel2"]) * (first > 0)
        kernel_gradient(images, delta, out=gradients["kernel1"])
        np.sum(delta, axis=(0, 1, 2), out=gradients["bias1"])
