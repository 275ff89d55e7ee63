"""ResNet v1.5 and v2 (He et al. 2015, arXiv 1512.03385; 2016, arXiv 1603.05027), at ImageNet's size or narrow."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from workloads.batch_norm import batch_norm
from workloads.convolution import Conv


class ResNet(nn.Module):
    """A stem, groups of residual blocks that double the channels and halve the map, global average pool, dense.

    Paddings are SAME: a 7x7 convolution of stride 2 pads 224x224 images by 2 before and 3 behind where PyTorch's pads
    by 3 and 3, and the strided 3x3 ones by 0 and 1; numbers of parameters and of operations agree. Kernels start
    LeCun-normal where the paper's start He-normal, the root of 2 larger at equal fans: normalisation takes the factor
    back. The head's start at standard deviation .01 (Goyal et al. 2017, arXiv 1706.02677).

    Attributes:
      blocks: number of blocks of each group.
      bottleneck: whether blocks are 1x1, 3x3, 1x1 convolutions with 4 times the channels at their end, or two 3x3.
      version: `v1.5`, normalised after each convolution, with the bottleneck's stride in its 3x3, or `v2`, before.
      stem: `imagenet` (7x7 of stride 2, 3x3 max pool of stride 2) or `small` (3x3 of stride 1).
      width: channels of the first group.
      norm_on_residual: one more normalisation after each residual addition (figure 9's broken network).
      zero_init_last_scale: every residual branch starts at 0; see `workload.ResNet`.
      classes: number of classes.
      batch_norm_momentum: share of the old running average that each training step keeps.
      virtual_batch_size: examples of a virtual batch, 0 for the whole batch; see `workloads.batch_norm`.
      compute_dtype: of the images and activations up to the pool, `float32` or `bfloat16`; parameters, batch
        statistics and logits are float32.
      convolution: the lowering, see `workloads.convolution`.
    """

    blocks: tuple[int, ...]
    bottleneck: bool
    version: str
    stem: str
    width: int
    norm_on_residual: bool
    zero_init_last_scale: bool
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
        block_of_version = _Block if self.version == "v1.5" else _PreActivationBlock
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = Conv(self.width, size, stride, self.convolution, name="stem")(images.astype(self.compute_dtype))
        if self.version == "v1.5":
            x = nn.relu(norm(name="stem_norm")(x))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for group, blocks in enumerate(self.blocks):
            for block in range(blocks):
                x = block_of_version(
                    channels=self.width * 2**group,
                    stride=2 if group and not block else 1,
                    bottleneck=self.bottleneck,
                    norm_on_residual=self.norm_on_residual,
                    zero_init_last_scale=self.zero_init_last_scale,
                    norm=norm,
                    convolution=self.convolution,
                    name=f"group{group}_block{block}",
                )(x)
        if self.version == "v2":
            x = nn.relu(norm(name="final_norm")(x))
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01), name="head")(features)


class _Block(nn.Module):
    """Block of v1.5: the normalisation behind each convolution, the ReLU behind the addition."""

    channels: int
    stride: int
    bottleneck: bool
    norm_on_residual: bool
    zero_init_last_scale: bool
    norm: Callable[..., nn.Module]
    convolution: str

    def convolutions(self) -> list[tuple[int, int, int]]:
        """Features, size and stride of each convolution of the residual branch."""
        if self.bottleneck:
            return [(self.channels, 1, 1), (self.channels, 3, self.stride), (4 * self.channels, 1, 1)]
        return [(self.channels, 3, self.stride), (self.channels, 3, 1)]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *first, last = self.convolutions()
        y = x
        for i, convolution in enumerate(first):
            y = nn.relu(self.norm(name=f"norm{i}")(Conv(*convolution, self.convolution, name=f"conv{i}")(y)))
        i = len(first)
        scale = nn.initializers.zeros if self.zero_init_last_scale else nn.initializers.ones
        y = self.norm(name=f"norm{i}", scale_init=scale)(Conv(*last, self.convolution, name=f"conv{i}")(y))
        if x.shape != y.shape:
            x = Conv(y.shape[-1], 1, self.stride, self.convolution, name="shortcut")(x)
            x = self.norm(name="shortcut_norm")(x)
        x = x + y
        if self.norm_on_residual:
            x = self.norm(name="residual_norm")(x)
        return nn.relu(x)


class _PreActivationBlock(_Block):
    """Block of v2: normalisation and ReLU before each convolution, nothing behind the addition."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *first, last = self.convolutions()
        y = before = nn.relu(self.norm(name="norm0")(x))
        for i, convolution in enumerate(first):
            y = Conv(*convolution, self.convolution, name=f"conv{i}")(y)
            y = nn.relu(self.norm(name=f"norm{i + 1}")(y))
        last_conv = _ZeroConv if self.zero_init_last_scale else Conv
        y = last_conv(*last, self.convolution, name=f"conv{len(first)}")(y)
        if x.shape != y.shape:
            x = Conv(y.shape[-1], 1, self.stride, self.convolution, name="shortcut")(before)
        x = x + y
        return self.norm(name="residual_norm")(x) if self.norm_on_residual else x


class _ZeroConv(Conv):
    """A convolution whose kernel starts at 0."""

    def param(self, name, init_fn, *arguments, **named):
        return super().param(name, nn.initializers.zeros, *arguments, **named)
