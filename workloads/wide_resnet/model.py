"""Wide ResNet (Zagoruyko and Komodakis 2016, arXiv 1605.07146), with the strides and heads of figure 4."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from workloads.batch_norm import batch_norm
from workloads.convolution import Conv


class WideResNet(nn.Module):
    """Wide ResNet d-k: a 3x3 stem of 16 channels, three groups of (d - 4) / 6 pre-activation blocks, a head.

    Attributes:
      depth: d, of the form 6n + 4.
      width: k; the groups have 16k, 32k and 64k channels.
      group_strides: stride of the first block of each group; (1, 2, 2) is published, (1, 2, 1) is figure 4's bug.
      head: `flatten` (stride-1 average pool over a quarter of the image's side, flatten, dense), `flatten_rescaled`
        (the same divided by the root of the number of positions) or `global_pool`.
      classes: number of classes.
      batch_norm_momentum: share of the old running average that each training step keeps.
      virtual_batch_size: examples of a virtual batch, 0 for the whole batch; see `workloads.batch_norm`.
      compute_dtype: of the images and activations up to the pool, `float32` or `bfloat16`; parameters, batch
        statistics and logits are float32.
      convolution: the lowering, see `workloads.convolution`.
    """

    depth: int
    width: int
    group_strides: tuple[int, int, int]
    head: str
    classes: int
    batch_norm_momentum: float
    virtual_batch_size: int
    compute_dtype: str
    convolution: str

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Maps (batch, height, width, channels) float32 images to (batch, classes) float32 logits."""
        norm = partial(
            batch_norm(self.virtual_batch_size),
            use_running_average=not train,
            momentum=self.batch_norm_momentum,
            epsilon=1e-5,
            dtype=jnp.dtype(self.compute_dtype),
        )
        window = images.shape[1] // 4
        x = Conv(16, lowering=self.convolution, name="stem")(images.astype(self.compute_dtype))
        for group, stride in enumerate(self.group_strides):
            for block in range((self.depth - 4) // 6):
                x = _Block(
                    16 * self.width * 2**group,
                    stride if block == 0 else 1,
                    norm,
                    self.convolution,
                    name=f"group{group}_block{block}",
                )(x)
        x = nn.relu(norm(name="final_norm")(x))
        x = x.astype(jnp.float32)
        if self.head == "global_pool":
            features = jnp.mean(x, axis=(1, 2))
        else:
            # nn.avg_pool divides by an integer array, which strict promotion refuses.
            pooled = nn.pool(x, 0.0, lax.add, (window, window), (1, 1), "VALID") / window**2
            positions = pooled.shape[1] * pooled.shape[2]
            features = pooled.reshape(pooled.shape[0], -1)
            if self.head == "flatten_rescaled":
                features = features / positions**0.5
        return nn.Dense(self.classes, name="head")(features)


class _Block(nn.Module):
    channels: int
    stride: int
    norm: Callable[..., nn.Module]
    convolution: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(name="norm0")(x))
        if x.shape[-1] != self.channels or self.stride != 1:
            x = Conv(self.channels, 1, self.stride, self.convolution, name="shortcut")(y)
        y = Conv(self.channels, 3, self.stride, self.convolution, name="conv0")(y)
        y = nn.relu(self.norm(name="norm1")(y))
        return x + Conv(self.channels, 3, 1, self.convolution, name="conv1")(y)
