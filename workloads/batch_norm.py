"""Batch normalization over the whole batch, or ghost batch normalization (Hoffer et al. 2017, arXiv 1705.08741)."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def batch_norm(virtual_batch_size: int) -> Callable[..., nn.Module]:
    """Gives the module of a virtual batch size: Flax's own `BatchNorm` for 0, the whole batch, else `GhostBatchNorm`.

    Both take `use_running_average`, `momentum`, `epsilon`, `dtype`, `scale_init` and `name`, and have the same
    parameters and state, so that either evaluates what the other has trained.
    """
    return partial(GhostBatchNorm, virtual_batch_size) if virtual_batch_size else nn.BatchNorm


class GhostBatchNorm(nn.Module):
    """Normalises each channel in training by the statistics of virtual batches, whatever the size of the batch.

    The virtual batches are consecutive examples of the global batch: under `jit` neither the number of devices nor the
    sharding changes them, and where a device's share is a multiple of their size, statistics need no communication.
    Where the size does not divide the batch, they are the fewest groups of at most that size, as equal as possible: 100
    examples at 64 make two groups of 50, where a remainder of 36, or of 1, would have statistics of its own noise. A
    batch smaller than the size is one group.

    Running averages take the mean and variance of the whole batch, merged from its groups by the law of total variance:
    mean of the means, and mean of the variances plus variance of the means, weighted by size. The averages therefore do
    not depend on the virtual batch for given activations. The paper's decay once a virtual batch instead, and leave out
    the variance between them.

    Groups that a device's share does not hold exchange statistics of shape (batch, channels), never activations. On one
    CPU thread, training steps of `wide_resnet` and `resnet` at laptop take 2 to 6% longer than with Flax's module.

    Parameters `scale` and `bias` and state `mean` and `var` are float32 (channels,); statistics are float32 too, in one
    pass like Flax's, as the mean of squares minus the squared mean, at least 0.

    Attributes:
      virtual_batch_size: the most examples of a virtual batch, at least 1.
      use_running_average: whether to normalise by the running averages, and not to move them.
      momentum: share of the old running average that each call keeps.
      epsilon: added to the variance.
      dtype: of the result.
      scale_init: initializer of `scale`.
    """

    virtual_batch_size: int
    use_running_average: bool
    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.dtype("float32")
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, ..., channels) floats to the same shape, of `dtype`."""
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        average_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        average_variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        x = x.astype(jnp.float32)
        if self.use_running_average:
            mean, variance = average_mean.value[None], average_variance.value[None]
        else:
            mean, variance = _statistics_of_each(x, -(-len(x) // self.virtual_batch_size))
            if not self.is_initializing():
                # Each example carries its group's statistics: plain means over the examples weigh groups by size.
                total = jnp.mean(variance, 0) + jnp.var(mean, 0)
                average_mean.value = self.momentum * average_mean.value + (1 - self.momentum) * jnp.mean(mean, 0)
                average_variance.value = self.momentum * average_variance.value + (1 - self.momentum) * total
        factor = lax.rsqrt(variance + self.epsilon) * scale[None]
        positions = tuple(range(1, x.ndim - 1))
        normal = (x - jnp.expand_dims(mean, positions)) * jnp.expand_dims(factor, positions)
        return (normal + bias.reshape((1,) * (x.ndim - 1) + channels)).astype(self.dtype)


def _statistics_of_each(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each example's group, (batch, channels) each, of float32 (batch, ..., channels)."""
    positions = tuple(range(1, x.ndim - 1))
    moments = jnp.stack([jnp.mean(x, positions), jnp.mean(lax.square(x), positions)])
    size, larger = divmod(len(x), groups)
    parts = []
    start = 0
    for count, length in ((larger, size + 1), (groups - larger, size)):
        stop = start + count * length
        if count:
            part = moments[:, start:stop].reshape(2, count, length, -1)
            means = jnp.broadcast_to(jnp.mean(part, 2, keepdims=True), part.shape)
            parts.append(means.reshape(2, count * length, -1))
        start = stop
    mean, mean_square = jnp.concatenate(parts, 1)
    return mean, jnp.maximum(mean_square - lax.square(mean), 0.0)  # which rounding can take below 0
