"""The two lowerings of a convolution: XLA's own, and shifted slices around matrix products, which is fast on CPU.

Training steps of WRN-10-1 in `lax.while_loop` (heavy ball, float32) on one thread of a 2-core AMD EPYC (AVX2), and of
the same network in eager PyTorch 2.13 (channels_last, oneDNN) on that thread. Steps per second of processor time, for
other programs shared the core; medians of 5 interleaved repetitions; in brackets the median ratio to PyTorch:

  images, batch   PyTorch   nine slices, one product   matrix_product
  8x8x1, 64       52.5      87.3 (1.69)                136.4 (2.47)
  14x14x1, 64     30.5      27.4 (0.92)                40.7 (1.39)
  28x28x1, 64     9.9       5.5 (0.56)                 8.5 (0.85)
  32x32x3, 64     7.5       3.9 (0.53)                 5.7 (0.77)

XLA's own convolution in a loop has a tenth of PyTorch's speed at 8x8 (wall time).

What did not help at 8x8, relative to what stands here where nothing else is said: fast math (1.00), optimisation level
3 (1.00), another scheduler (1.01), YNNPACK off (0.95) or for products but not for sums (0.87), treating the stem like
the rest (0.93), folding the width into the channels of the stem (0.90), a layout of height x width x batch x channels
(0.98), sums over the batch as products with ones (equal or slower), Winograd's F(2x2, 3x3) (0.6, and twice the
compilation), oneDNN (1.01 of nine slices). YNNPACK in XLA takes no float32 convolution. A batch normalization of our
own, a x + b per channel, would bring 0 to 13%, most at 32x32: not worth leaving Flax's.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from workloads.product import product

LOWERINGS = ("xla", "matrix_product")

_TABLE = {"cpu": "matrix_product"}
"""Backend to the lowering that was measured to be the faster one there."""

_ELSEWHERE = "xla"

_ROWS, _COLUMNS, _CHANNELS = 1, 2, 3
_FEW_CHANNELS = 4


def lowering_of(convolution: str, backend: str) -> str:
    """The lowering of a configuration's `convolution`: itself, or for `by_backend` a static choice, as measured above.

    Args:
      convolution: one of `LOWERINGS`, or `by_backend`.
      backend: such as `cpu`, `gpu` or `tpu`.
    """
    return _TABLE.get(backend, _ELSEWHERE) if convolution == "by_backend" else convolution


def convolve_by_matrix_product(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves with SAME padding through matrix products.

    The k column taps stand side by side in the depth of the product and the k row taps in its width, (b h w, k c) by
    (k c, k f), where the usual product of patches is (b h w, k k c) by (k k c, f): a third of the copying at k = 3, and
    a weight gradient that is nearer to square. Shifts pad and crop, and are their own transposes, so that gradients
    take the same form.

    Args:
      images: (batch, height, width, channels) floats.
      kernel: (k, k, channels, features) floats of the same dtype, k odd.
      stride: step between neighbouring outputs, in both directions.

    Returns:
      (batch, ceil(height / stride), ceil(width / stride), features), dtype of the arguments.
    """
    size, _, channels, features = kernel.shape
    _, height, width, _ = images.shape
    if 2 * height * width <= size * size:
        return _convolve_densely(images, kernel, stride)
    patches = _taps_side_by_side(images, size, stride, _COLUMNS)
    if channels <= _FEW_CHANNELS:  # more outputs than inputs: rather copy the inputs
        patches = _taps_side_by_side(patches, size, stride, _ROWS)
        return product(patches, kernel.reshape(size * size * channels, features))
    rows, taps = -(-height // stride), _taps(height, size, stride)
    total = None
    for remainder in range(min(stride, height)):
        chosen = [(tap, shift) for tap, (of, shift) in enumerate(taps) if of == remainder]
        if not chosen:
            continue
        weights = jnp.stack([kernel[tap] for tap, _ in chosen], 2).reshape(size * channels, len(chosen) * features)
        products = product(_every(patches, remainder, stride, _ROWS), weights)
        parts = lax.split(products, (features,) * len(chosen), _CHANNELS)
        for part, (_, shift) in zip(parts, chosen, strict=True):
            part = _shifted(part, shift, rows, _ROWS)
            total = part if total is None else total + part
    return total


def _convolve_densely(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves by one product with a matrix of all pairs of positions: on tiny maps most taps fall on padding."""
    size, _, channels, features = kernel.shape
    batch, height, width, _ = images.shape
    rows, columns = -(-height // stride), -(-width // stride)
    placement = np.einsum("yai,xbj->yxabij", _placement(height, size, stride), _placement(width, size, stride))
    matrix = jnp.asarray(placement.reshape(-1, size * size), kernel.dtype) @ kernel.reshape(size * size, -1)
    matrix = matrix.reshape(height * width, rows * columns, channels, features).transpose(0, 2, 1, 3)
    outputs = images.reshape(batch, -1) @ matrix.reshape(height * width * channels, -1)
    return outputs.reshape(batch, rows, columns, features)


def _placement(length: int, size: int, stride: int) -> np.ndarray:
    """Whether the position (length) is under the tap (size) of the output, float32 (length, outputs, size)."""
    outputs = -(-length // stride)
    positions = np.arange(outputs)[:, None] * stride + np.arange(size) - _before(length, size, stride)
    return (np.arange(length)[:, None, None] == positions).astype(np.float32)


def _taps_side_by_side(images: jax.Array, size: int, stride: int, axis: int) -> jax.Array:
    length = images.shape[axis]
    pieces = [
        _shifted(_every(images, remainder, stride, axis), shift, -(-length // stride), axis)
        for remainder, shift in _taps(length, size, stride)
    ]
    return lax.concatenate(pieces, _CHANNELS)


def _taps(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    """(remainder, shift) of each tap: output o reads position (o + shift) stride + remainder, zero where outside."""
    before = _before(length, size, stride)
    return [((tap - before) % stride, (tap - before) // stride) for tap in range(size)]


def _before(length: int, size: int, stride: int) -> int:
    """SAME padding before the first position."""
    return max((-(-length // stride) - 1) * stride + size - length, 0) // 2


def _every(images: jax.Array, remainder: int, stride: int, axis: int) -> jax.Array:
    if stride == 1:
        return images
    return lax.slice_in_dim(images, min(remainder, images.shape[axis]), None, stride, axis)


def _shifted(images: jax.Array, shift: int, length: int, axis: int) -> jax.Array:
    """Positions shift, ..., shift + length - 1 along an axis, zeros outside of the image."""
    available = images.shape[axis]
    if shift == 0 and length == available:
        return images
    if shift >= available or shift + length <= 0:
        shape = (*images.shape[:axis], length, *images.shape[axis + 1 :])
        return jnp.zeros(shape, images.dtype)
    padding = [(0, 0, 0)] * images.ndim
    padding[axis] = (-shift, shift + length - available, 0)
    return lax.pad(images, jnp.zeros((), images.dtype), padding)


class Conv(nn.Module):
    """A square convolution without bias, SAME padding, LeCun-normal kernel of shape (k, k, in, features).

    Attributes:
      features: number of output channels.
      size: side of the kernel.
      stride: step between neighbouring outputs.
      lowering: one of `LOWERINGS`; it changes rounding and speed, nothing else.
    """

    features: int
    size: int = 3
    stride: int = 1
    lowering: str = "xla"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = (self.size, self.size, images.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(images.dtype)
        if self.lowering == "matrix_product":
            return convolve_by_matrix_product(images, kernel, self.stride)
        return lax.conv_general_dilated(
            images, kernel, (self.stride, self.stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
