"""Resizing of square images: area averages to shrink them, a margin of zeros to enlarge them."""

import numpy as np


def resize(images: np.ndarray, side: int) -> np.ndarray:
    """Resizes images without ever interpolating between pixels.

    Args:
      images: float32 (n, size, size) or (n, size, size, channels).
      side: asked size; images are shrunken by area averages below `size`, padded with zeros above.

    Returns:
      The images, float32 (n, side, side) or (n, side, side, channels).
    """
    size = images.shape[1]
    if side >= size:
        before = (side - size) // 2
        margin = (before, side - size - before)
        return np.pad(images, ((0, 0), margin, margin) + ((0, 0),) * (images.ndim - 3))
    edges = np.arange(side + 1) * size / side
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = (np.clip(overlap, 0, None) * side / size).astype(np.float32)
    if images.ndim == 3:
        return weights @ images @ weights.T
    channels_first = np.ascontiguousarray(np.moveaxis(images, -1, 1))  # many times faster to multiply than strided
    return np.ascontiguousarray(np.moveaxis(weights @ channels_first @ weights.T, 1, -1))
