"""`photo_patches`: small square crops of ten colour photographs, one class each, from files inside two packages.

The task is photo identification: which of the ten photographs is a crop from? It is not CIFAR and no replacement of
it: a class is one photograph, not a kind of object, and validation crops show other parts of the same ten photographs.
"""

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from workloads.data.resize import resize
from workloads.workload import DataError, Splits

SHA256 = "d3fec6234ee34647937842636fdacb871e49b66e8f85eacdf76f65cb22ec812c"
"""sha256 over the ten photographs in order: the decoded pixels of a PNG, the bytes of the file of a JPEG.

Decoders of JPEG may differ in a pixel's last bit, so that only the file is the same everywhere.
"""

CLASSES = 10
TRAINING_CROPS = 500
"""Training crops per photograph."""
TRAINING_EXAMPLES = TRAINING_CROPS * CLASSES
VALIDATION_CROPS = 100
"""Validation crops per photograph."""
TILE = 64
"""Side in pixels of the tiles that are held out as a whole."""

_WINDOW = 32
_REQUIREMENTS = {"skimage": "scikit-image==0.26.0", "sklearn": "scikit-learn==1.9.1"}

# Package, file, region that is used, and whole factor that it is shrunken by: all of them end up as 28 to 77 tiles.
_PHOTOGRAPHS = (
    ("skimage", "data/astronaut.png", np.s_[:, :320], 1),  # without the pure black cloth, whose crops would be equal
    ("skimage", "data/chelsea.png", np.s_[:], 1),
    ("skimage", "data/coffee.png", np.s_[:], 1),
    ("skimage", "data/hubble_deep_field.jpg", np.s_[:], 2),
    ("skimage", "data/ihc.png", np.s_[:], 1),
    ("skimage", "data/motorcycle_left.png", np.s_[:], 1),
    ("skimage", "data/retina.jpg", np.s_[257:1153, 257:1153], 2),  # without the black around the eye
    ("skimage", "data/rocket.jpg", np.s_[:], 1),
    ("sklearn", "datasets/images/china.jpg", np.s_[:], 1),
    ("sklearn", "datasets/images/flower.jpg", np.s_[:], 1),
)


def find() -> list[Path]:
    """Finds the ten files without importing their packages, which takes a second.

    Raises:
      DataError: a package is missing.
    """
    paths = []
    for name, file, _, _ in _PHOTOGRAPHS:
        package = importlib.util.find_spec(name)
        if package is None or not package.submodule_search_locations:
            raise DataError(f"photo_patches: the package {name} is missing; {_mend(name)}")
        paths.append(Path(package.submodule_search_locations[0]) / file)
    return paths


@lru_cache(maxsize=1)
def load() -> list[np.ndarray]:
    """Reads the photographs.

    Returns:
      Ten photographs, uint8 (height, width, 3), some of them a region, or shrunken by a whole factor.

    Raises:
      DataError: a package is missing, or its content is another.
    """
    digest, photographs = hashlib.sha256(), []
    for path, (name, _, region, factor) in zip(find(), _PHOTOGRAPHS, strict=True):
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            digest.update(path.read_bytes() if path.suffix == ".jpg" else pixels.tobytes())
        except (OSError, SyntaxError, ValueError) as error:  # Pillow calls a broken chunk of a PNG a SyntaxError
            raise DataError(f"photo_patches: {path} cannot be read ({error}); {_mend(name)}") from None
        photographs.append(_shrink(pixels[region], factor))
    found = digest.hexdigest()
    if found != SHA256:
        raise DataError(
            f"photo_patches: the photographs of {' and '.join(_REQUIREMENTS)} have sha256 {found[:12]}, "
            f"expected {SHA256[:12]}; {_mend(*_REQUIREMENTS)}"
        )
    return photographs


def splits(split_seed: int, side: int) -> Splits:
    """Holds out about a fifth of each photograph's tiles, and cuts 500 training and 100 validation crops from each.

    Args:
      split_seed: decides which tiles are held out, the same at any side, and where in the tiles crops are cut.
      side: side of the crops, 8 to 64. Below 32, they are windows of 32 pixels shrunken by area averages, so that
        their content stays comparable. Above 60, crops of a part repeat: a tile has but one place for a crop of 64.

    Returns:
      `image`, float32 (5000 or 1000, side, side, 3), standardised per channel by the mean and standard deviation of
      the training crops, and `label`, int32 (5000 or 1000,).

    Raises:
      ValueError: a side out of range.
      DataError: see `load`.
    """
    if not 8 <= side <= TILE:
        raise ValueError(f"side={side!r}: expected 8 to {TILE}")
    parts = _places(split_seed, max(side, _WINDOW))
    train, validation = (_cut(part, side) for part in parts)
    channels = [train[..., channel] for channel in range(3)]  # ten times faster than one reduction with axis=(0, 1, 2)
    mean = np.array([c.mean(dtype=np.float64) for c in channels], np.float32)
    deviation = np.array([c.std(dtype=np.float64) for c in channels], np.float32)
    for images in (train, validation):
        images -= mean
        images /= deviation
    labels = [part[:, 0].astype(np.int32) for part in parts]
    return Splits(
        train={"image": train, "label": labels[0]},
        validation={"image": validation, "label": labels[1]},
    )


def split_tiles(generator: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Holds out about a fifth of each photograph's tiles.

    Args:
      generator: fresh from the split seed.

    Returns:
      Each photograph's corners of tiles for training, and those for validation, int64 (n, 2), in random order.

    Raises:
      DataError: see `load`.
    """
    tiles = [generator.permutation(_tiles(photograph)) for photograph in load()]
    held_out = [round(len(corners) / 5) for corners in tiles]
    train = [corners[count:] for corners, count in zip(tiles, held_out, strict=True)]
    validation = [corners[:count] for corners, count in zip(tiles, held_out, strict=True)]
    return train, validation


def _places(split_seed: int, window: int) -> list[np.ndarray]:
    """Draws training and validation crops: photograph, top and left of each, int64 (n, 3)."""
    generator = np.random.default_rng(split_seed)
    train, validation = split_tiles(generator)
    parts = []
    for part, count in ((train, TRAINING_CROPS), (validation, VALIDATION_CROPS)):
        places = [_draw(generator, corners, window, count) for corners in part]
        labelled = np.column_stack([np.repeat(np.arange(CLASSES), count), np.concatenate(places)])
        parts.append(generator.permutation(labelled))
    return parts


def _tiles(photograph: np.ndarray) -> np.ndarray:
    """Corners of the disjoint tiles of a photograph, (n, 2)."""
    rows, columns = photograph.shape[0] // TILE, photograph.shape[1] // TILE
    return np.indices((rows, columns)).reshape(2, -1).T * TILE


def _draw(generator: np.random.Generator, corners: np.ndarray, window: int, count: int) -> np.ndarray:
    """Draws corners of windows inside tiles, (count, 2), none again before all have been drawn."""
    shape = (len(corners), TILE - window + 1, TILE - window + 1)
    drawn = np.resize(generator.permutation(np.prod(shape)), count)
    tile, row, column = np.unravel_index(drawn, shape)
    return corners[tile] + np.column_stack([row, column])


def _cut(places: np.ndarray, side: int) -> np.ndarray:
    """Cuts crops at places from `_places`, float32 (n, side, side, 3), 0 to 255."""
    window = max(side, _WINDOW)
    crops = np.empty((len(places), window, window, 3), np.float32)
    for label, photograph in enumerate(load()):
        mine = places[:, 0] == label
        windows = sliding_window_view(photograph, (window, window), axis=(0, 1))
        crops[mine] = np.moveaxis(windows[places[mine, 1], places[mine, 2]], 1, -1)
    return resize(crops, side) if side < window else crops


def _shrink(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks, rounded in whole numbers: the same bits on every machine."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return ((blocks.sum(axis=(1, 3)) + factor**2 // 2) // factor**2).astype(np.uint8)


def _mend(*packages: str) -> str:
    requirements = " ".join(_REQUIREMENTS[package] for package in packages)
    return f"install {'it' if len(packages) == 1 else 'them'} with: pip install {requirements}"
