"""What the workloads that classify images share: loss and predictions of a Flax module with batch statistics."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from workloads.cross_entropy import weighted_cross_entropy


def image_loss(
    model: nn.Module,
    parameters: Any,
    state: Any,
    batch: Mapping[str, jax.Array],
    train: bool,
    label_smoothing: jax.Array | float = 0.0,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """Computes what `workloads.workload.Workload.loss` gives, for a network without dropout.

    Args:
      model: maps (images, train) to float32 (batch, classes) logits; its only state is `batch_stats`.
      parameters: the collection `params` of the model.
      state: the collection `batch_stats`.
      batch: `image`, float32 (batch, height, width, channels); `label`, int32 (batch,); `weight`, float32 (batch,).
      train: whether to normalise by the batch and to move the running averages.
      label_smoothing: see `workloads.cross_entropy`.

    Returns:
      The loss, float32 (), and (metrics, new batch statistics).
    """
    variables = {"params": parameters, "batch_stats": state}
    if train:
        logits, updates = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        state = updates["batch_stats"]
    else:
        logits = model.apply(variables, batch["image"], train=False)
    loss, metrics = weighted_cross_entropy(logits, batch["label"], batch["weight"], label_smoothing)
    return loss, (metrics, state)


def image_predictions(model: nn.Module, parameters: Any, state: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Gives the most probable label of every image by the running averages, int32 (batch,); see `image_loss`."""
    logits = model.apply({"params": parameters, "batch_stats": state}, batch["image"], train=False)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
