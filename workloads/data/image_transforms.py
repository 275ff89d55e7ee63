"""What happens to images on their way to a batch: functions of bytes or pixels and a generator alone.

They give uint8, a quarter of the bytes of float32; `workloads.classification` standardises the channels on the device.
Pillow lets other threads run while it decodes and resizes.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from workloads.workload import DataError

AREA = (0.08, 1.0)
"""Range of a random crop's share of the image (Szegedy et al. 2014, arXiv 1409.4842; Goyal et al. 2017)."""

ASPECT_RATIO = (3 / 4, 4 / 3)
"""Range of its width over its height."""

CENTRE = 224 / 256
"""Side of the evaluation's crop over the image's shorter side (Goyal et al. 2017, arXiv 1706.02677)."""

MARGIN = 4
"""Pixels that small images are padded by before a crop of their own size (Zagoruyko and Komodakis 2016)."""

_ATTEMPTS = 10  # at a box that fits, before the largest in the middle is taken

_Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def decode(encoded: bytes, name: str) -> np.ndarray:
    """Decodes a JPEG or PNG.

    Args:
      encoded: the file.
      name: what an error calls the image, such as `cifar10: image train_00001`.

    Returns:
      uint8 (height, width, 3), RGB.

    Raises:
      DataError: it does not decode.
    """
    return _read(encoded, name, lambda image: image)


def random_resized_crop(encoded: bytes, side: int, generator: np.random.Generator, name: str) -> np.ndarray:
    """Cuts a box of random area, aspect ratio and place out of an image, and resizes it.

    Args:
      encoded: a JPEG or PNG file.
      side: of the result.
      generator: where the box comes from.
      name: what an error calls the image.

    Returns:
      uint8 (side, side, 3), RGB.

    Raises:
      DataError: the image does not decode.
    """
    return _read(encoded, name, lambda image: _cut(image, _random_box(*image.size, generator), side))


def centre_crop(encoded: bytes, side: int, name: str) -> np.ndarray:
    """Cuts the middle square out of an image and resizes it, as if the shorter side had first become side / `CENTRE`.

    Args:
      encoded: a JPEG or PNG file.
      side: of the result.
      name: what an error calls the image.

    Returns:
      uint8 (side, side, 3), RGB.

    Raises:
      DataError: the image does not decode.
    """
    return _read(encoded, name, lambda image: _cut(image, _centre_box(*image.size), side))


def random_flip(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mirrors every other image, on average, left to right; pixels (height, width, channels) in and out."""
    return np.ascontiguousarray(image[:, ::-1]) if generator.random() < 0.5 else image


def random_shift(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Cuts a random crop of an image's own size out of the image padded by `MARGIN` reflected pixels on each side.

    Args:
      image: (height, width, channels), of more than `MARGIN` pixels a side.
      generator: where the place comes from.

    Returns:
      The crop, of the same shape and dtype.
    """
    top, left = generator.integers(2 * MARGIN + 1, size=2)
    padded = np.pad(image, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="reflect")
    height, width, _ = image.shape
    return np.ascontiguousarray(padded[top : top + height, left : left + width])


def _read(encoded: bytes, name: str, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Decodes what `change` leaves of an image that has only been opened."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.array(change(image).convert("RGB"))
    # Pillow calls a broken chunk of a PNG a SyntaxError, and a header of absurd size a bomb.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{name} does not decode ({reason}); prepare the data set again from intact downloads"
        ) from None


def _cut(image: Image.Image, box: _Box, side: int) -> Image.Image:
    """Resizes a box of an image that has only been opened.

    Pillow decodes a JPEG as a whole, but can do so at a half, a quarter or an eighth of its size, in a fraction of the
    time: the smallest of these that still has no fewer pixels than the result.
    """
    left, top, right, bottom = box
    width, height = image.size
    factor = max((f for f in (1, 2, 4, 8) if f * side <= min(right - left, bottom - top)), default=1)
    if factor > 1 and image.draft(image.mode, (width // factor, height // factor)) is None:
        factor = 1  # no JPEG
    box = (left / factor, top / factor, right / factor, bottom / factor)
    return image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box)


def _random_box(width: int, height: int, generator: np.random.Generator) -> _Box:
    for _ in range(_ATTEMPTS):
        area = width * height * generator.uniform(*AREA)
        ratio = math.exp(generator.uniform(*map(math.log, ASPECT_RATIO)))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(generator.integers(width - box_width + 1))
            top = int(generator.integers(height - box_height + 1))
            return left, top, left + box_width, top + box_height
    low, high = ASPECT_RATIO
    return _middle(width, height, min(width, height * high), min(height, width / low))


def _centre_box(width: int, height: int) -> _Box:
    side = CENTRE * min(width, height)
    return _middle(width, height, side, side)


def _middle(width: int, height: int, box_width: float, box_height: float) -> _Box:
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height
