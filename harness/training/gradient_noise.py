"""The two moments of the gradient that its noise scale is made of, from batches at fixed parameters."""

import itertools
from collections.abc import Iterable

import numpy as np

DRAWS = 40
"""Batches of a measurement: the variance of the noise's estimate falls with them."""


def gradient_noise(gradients: Iterable[np.ndarray], batch_size: int) -> tuple[float, float]:
    """Estimates the squared norm of the true gradient G and the trace of the covariance of one example's gradient.

    By the two batch sizes of McCandlish et al. 2018 (arXiv 1812.06162), equations A.2 and A.3, with b the given size
    and B = `DRAWS` b of all drawn batches together: |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b) and
    tr(Sigma) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B), |G_b|^2 being the mean over the batches. Both are unbiased for
    independent examples, their ratio is not: average each over measurements before dividing
    (`harness.analysis.noise_scale`). Where examples share batch statistics, the noise that these add is in it.

    Args:
      gradients: of the first `DRAWS` batches, float32 (parameters,) each; more are not asked for.
      batch_size: examples of a batch, b.

    Returns:
      |G|^2, which an unlucky draw makes negative, and tr(Sigma); NaN where a gradient is not finite.
    """
    total, squares, draws = 0.0, 0.0, 0
    for gradient in itertools.islice(gradients, DRAWS):
        one = np.asarray(gradient, np.float64)
        total, squares, draws = total + one, squares + float(one @ one), draws + 1
    small, large = squares / draws, float(total @ total) / draws**2
    square = (draws * large - small) / (draws - 1)
    return square, (small - large) / (1 / batch_size - 1 / (draws * batch_size))
