"""A small data set of ImageNet's schema, that tests and benchmarks of the published road run on; it shows nothing."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from workloads.data import prepared

CLASSES = 1000
SMOOTHNESS = 8
"""Pixels between random colours."""
NOISE = 20
"""Greatest distance of a pixel from the smooth image: 4.6 bits a pixel, as in ImageNet's JPEGs of 110 KB on average."""


def encoded_image(number: int, sides: tuple[int, int]) -> bytes:
    """Draws a JPEG whose height and width are random, from `sides[0]` to `sides[1]`, a function of the arguments."""
    random = np.random.default_rng(number)
    height, width = map(int, random.integers(sides[0], sides[1] + 1, 2))
    coarse = random.integers(0, 256, (height // SMOOTHNESS + 2, width // SMOOTHNESS + 2, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(smooth + random.integers(-NOISE, NOISE + 1, smooth.shape), 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noisy).save(encoded, "JPEG", quality=92)
    return encoded.getvalue()


def examples(count: int, first: int, sides: tuple[int, int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Gives keys and records of ImageNet's schema; the label is a function of the number in the file's name."""
    for i in range(first, first + count):
        label = (37 * i) % CLASSES
        yield i, {"image": encoded_image(i, sides), "label": label, "file_name": f"n{label:08d}_{i}.JPEG"}


def prepare(
    directory: Path,
    train: int,
    validation: int,
    sides: tuple[int, int] = (60, 180),
    shards: int = 3,
    file_format: str = "array_record",
) -> Path:
    """Prepares `imagenet2012` 5.1.0 as TFDS would, but for what the images show.

    Args:
      directory: data directory of TFDS.
      train: number of training examples.
      validation: number of validation examples.
      sides: the least and the greatest height and width; ImageNet's are mostly 300 to 600.
      shards: of each split, at most one an example.
      file_format: of TFDS.

    Returns:
      The folder of the data set.
    """
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=CLASSES),
            "file_name": tfds.features.Text(),
        }
    )
    splits = {"train": examples(train, 0, sides), "validation": examples(validation, train, sides)}
    return prepared.write(directory, "imagenet2012", "5.1.0", features, splits, shards, file_format)
