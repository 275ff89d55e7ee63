"""The largest eigenvalue of the loss's Hessian, and of the one that Adam's preconditioner makes of it, matrix-free.

A product of the Hessian and a vector is a forward derivative of a gradient and took as long as 2.8 (Transformer) to 3.3
gradients (Wide ResNet) on CPU. The sharpness of the `mlp`, the Wide ResNet and the Transformer at `laptop` size took 13
products, about 40 gradients; the preconditioned sharpness took 13 to 25, and one more product gives the gradient.
"""

from collections.abc import Callable, Mapping

import numpy as np

TOLERANCE = 1e-3
"""Relative accuracy that the eigenvalue is computed to."""


def largest_eigenvalue(hessian_product: Callable[[np.ndarray], np.ndarray], size: int, seed: int) -> float:
    """Computes the algebraically largest eigenvalue by implicitly restarted Lanczos (ARPACK through SciPy).

    Args:
      hessian_product: multiplies the Hessian by a float32 vector (size,).
      size: number of parameters.
      seed: of the starting vector.

    Returns:
      The eigenvalue; NaN where a product was not finite or the iteration did not converge.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    def multiply(vector: np.ndarray) -> np.ndarray:
        product = np.asarray(hessian_product(vector.astype(np.float32).ravel()), np.float64)
        if not np.all(np.isfinite(product)):
            raise FloatingPointError
        return product

    operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(size)
    try:
        values = eigsh(operator, k=1, which="LA", v0=start, ncv=min(12, size), tol=TOLERANCE, return_eigenvectors=False)
    except (ArpackError, FloatingPointError):
        return float("nan")
    return float(values[0])


def adam_preconditioner(
    second_moment: np.ndarray, count: int, gradient: np.ndarray, hyperparameters: Mapping[str, float]
) -> np.ndarray:
    """Adam's preconditioner P, as a diagonal: a step is theta -= rate m / P, with m the average of the gradients.

    By section 2 of Cohen et al. 2022 (arXiv 2207.14484), with the playbook's epsilon (see `update_rule`):
    P = (sqrt(v) + epsilon) (1 - beta1^t) / sqrt(1 - beta2^t) after t steps. The largest eigenvalue of P^-1 H, which
    they call the preconditioned sharpness, is that of the symmetric P^-1/2 H P^-1/2. Before the first step there is no
    P: the one taken is that of a first step with the given gradient, (|g| + epsilon / sqrt(1 - beta2)) (1 - beta1).

    Args:
      second_moment: v, not corrected, (parameters,).
      count: t, steps done.
      gradient: on the batch of the measurement, before clipping, (parameters,); used at t = 0 alone.
      hyperparameters: `beta1`, `beta2`, `epsilon`; with `clip_threshold` the gradient is clipped.

    Returns:
      More than 0 where epsilon is, float64 (parameters,).
    """
    beta1, beta2, epsilon = (float(hyperparameters[name]) for name in ("beta1", "beta2", "epsilon"))
    second = np.asarray(second_moment, np.float64)
    if count == 0:
        norm = float(np.linalg.norm(gradient))
        threshold = float(hyperparameters.get("clip_threshold", np.inf))
        clipped = gradient * (threshold / norm) if norm >= threshold else gradient
        count, second = 1, (1 - beta2) * np.asarray(clipped, np.float64) ** 2
    return (np.sqrt(second) + epsilon) * (1 - beta1**count) / np.sqrt(1 - beta2**count)
