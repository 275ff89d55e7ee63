"""The two lowerings of a convolution: XLA's own, and shifted slices followed by one matrix product."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

LOWERINGS = ("xla", "matrix_product")


def convolve_by_matrix_product(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves with SAME padding through one matrix product over shifted slices.

    XLA's CPU convolution is slow inside `lax.scan` and under `vmap`, and slower still below 3x3 maps;
    a matrix product is not.

    Args:
      images: (batch, height, width, channels) floats.
      kernel: (k, k, channels, features) floats, k odd.
      stride: step between neighbouring outputs, in both directions.

    Returns:
      (batch, ceil(height / stride), ceil(width / stride), features), dtype of the arguments.
    """
    size, _, channels, features = kernel.shape
    batch, height, width, _ = images.shape
    rows, columns = -(-height // stride), -(-width // stride)
    before_y, after_y = _same_padding(height, size, stride)
    before_x, after_x = _same_padding(width, size, stride)
    padded = jnp.pad(images, ((0, 0), (before_y, after_y), (before_x, after_x), (0, 0)))
    slices = [
        lax.slice(
            padded,
            (0, y, x, 0),
            (batch, y + (rows - 1) * stride + 1, x + (columns - 1) * stride + 1, channels),
            (1, stride, stride, 1),
        )
        for y in range(size)
        for x in range(size)
    ]
    patches = jnp.concatenate(slices, axis=-1).reshape(batch * rows * columns, size * size * channels)
    return (patches @ kernel.reshape(size * size * channels, features)).reshape(batch, rows, columns, features)


def _same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


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
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        if self.lowering == "matrix_product":
            return convolve_by_matrix_product(images, kernel, self.stride)
        return lax.conv_general_dilated(
            images, kernel, (self.stride, self.stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
