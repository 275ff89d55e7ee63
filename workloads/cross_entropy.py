"""The loss that all workloads share: weighted cross-entropy of integer labels, with label smoothing and z-loss."""

import jax
import jax.numpy as jnp
import optax


def weighted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weight: jax.Array,
    label_smoothing: jax.Array | float = 0.0,
    z_loss: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the training loss and the metrics of a weighted batch, whatever the dtype of the logits in float32.

    Label smoothing s mixes the labels with the uniform distribution: (1 - s) one_hot + s / classes (Szegedy et al.
    2016, arXiv 1512.00567). Z-loss adds z_loss log^2 Z, Z the sum of the exponentiated logits (Chowdhery et al. 2022,
    arXiv 2204.02311).

    Args:
      logits: (..., classes) floats.
      labels: int32 (...).
      weight: float32 (...), 0 for what does not count.
      label_smoothing: s, float32 () where traced, at least 0 and below 1.
      z_loss: coefficient of the z-loss.

    Returns:
      The weighted mean of the training loss in nats, float32 (), and the metrics, float32 () each: `loss`, the mean
      cross-entropy without smoothing and z-loss; `error`, the share of labels that are not the largest logit; `weight`,
      the sum of the weights.
    """
    logits = logits.astype(jnp.float32)
    total = jnp.sum(weight)
    share = weight / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)  # a batch of padding alone has loss 0
    log_z = jax.nn.logsumexp(logits, axis=-1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    trained = losses
    if not isinstance(label_smoothing, float) or label_smoothing:
        uniform = log_z - jnp.mean(logits, axis=-1)
        trained = (1 - label_smoothing) * losses + label_smoothing * uniform
    if z_loss:
        trained = trained + z_loss * jnp.square(log_z)
    errors = (~_is_largest(logits, labels)).astype(jnp.float32)
    metrics = {"loss": jnp.sum(losses * share), "error": jnp.sum(errors * share), "weight": total}
    return jnp.sum(trained * share), metrics


def _is_largest(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether a label's logit is the largest, of equal ones the first: `argmax(logits) == labels`, bool (...).

    XLA's argmax takes most of the time of a small language model's evaluation on CPU; comparisons take a third of it.
    Where any logit is NaN the answer is no.
    """
    labels = labels[..., None]
    own = jnp.take_along_axis(logits, labels, axis=-1)
    earlier = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) < labels
    return jnp.all(jnp.where(earlier, logits < own, logits <= own), axis=-1)
