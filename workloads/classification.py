"""What the workloads that classify images share: loss and predictions of a Flax module with batch statistics."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from workloads.cross_entropy import weighted_cross_entropy

Channels = tuple[Sequence[float], Sequence[float]]
"""Means and standard deviations of the channels of uint8 images."""


def image_loss(
    model: nn.Module,
    parameters: Any,
    state: Any,
    batch: Mapping[str, jax.Array],
    train: bool,
    label_smoothing: jax.Array | float = 0.0,
    channels: Channels | None = None,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """Computes what `workloads.workload.Workload.loss` gives, for a network without dropout.

    Args:
      model: maps (images, train) to float32 (batch, classes) logits; its only state is `batch_stats`.
      parameters: the collection `params` of the model.
      state: the collection `batch_stats`.
      batch: `image`, (batch, height, width, channels), float32 that is standardised, or uint8 that is standardised
        here; `label`, int32 (batch,); `weight`, float32 (batch,).
      train: whether to normalise by the batch and to move the running averages.
      label_smoothing: see `workloads.cross_entropy`.
      channels: what uint8 images are standardised by.

    Returns:
      The loss, float32 (), and (metrics, new batch statistics).
    """
    variables, images = {"params": parameters, "batch_stats": state}, _standardised(batch["image"], channels)
    if train:
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        state = updates["batch_stats"]
    else:
        logits = model.apply(variables, images, train=False)
    loss, metrics = weighted_cross_entropy(logits, batch["label"], batch["weight"], label_smoothing)
    return loss, (metrics, state)


def image_predictions(
    model: nn.Module, parameters: Any, state: Any, batch: Mapping[str, jax.Array], channels: Channels | None = None
) -> jax.Array:
    """Gives the most probable label of every image by the running averages, int32 (batch,); see `image_loss`."""
    images = _standardised(batch["image"], channels)
    logits = model.apply({"params": parameters, "batch_stats": state}, images, train=False)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _standardised(images: jax.Array, channels: Channels | None) -> jax.Array:
    if images.dtype != jnp.uint8:
        return images
    mean, deviation = (jnp.array(each, jnp.float32)[None, None, None] for each in channels)
    return (images.astype(jnp.float32) - mean) / deviation
