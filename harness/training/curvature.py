"""The largest eigenvalue of the loss's Hessian, matrix-free."""

from collections.abc import Callable

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
