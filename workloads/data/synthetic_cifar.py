"""Small data sets of CIFAR-10's and CIFAR-100's schemas, that tests of the published road run on; they show nothing."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from workloads.data import cifar, prepared


def pixels(number: int) -> np.ndarray:
    """Draws an image, uint8 (32, 32, 3), a function of its number."""
    return np.random.default_rng(number).integers(0, 256, (cifar.SIDE, cifar.SIDE, 3), np.uint8)


def examples(part: str, count: int, labels: dict[str, int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Gives keys and records; a label is the number of the image, modulo its classes."""
    for i in range(count):
        image = io.BytesIO()
        Image.fromarray(pixels(i)).save(image, "PNG")
        yield i, {"id": f"{part}_{i:05d}", "image": image.getvalue(), **{name: i % n for name, n in labels.items()}}


def prepare(directory: Path, name: str, train: int, test: int, version: str = cifar.VERSIONS[0]) -> Path:
    """Prepares `cifar10` or `cifar100` as TFDS would, but for what the images show.

    Args:
      directory: data directory of TFDS.
      name: `cifar10` or `cifar100`.
      train: number of training examples.
      test: number of test examples.
      version: of the data set.

    Returns:
      The folder of the data set.
    """
    import tensorflow_datasets as tfds

    labels = {"label": cifar.CLASSES[name], **({"coarse_label": 20} if name == "cifar100" else {})}
    features = {label: tfds.features.ClassLabel(num_classes=count) for label, count in labels.items()}
    image = tfds.features.Image(shape=(cifar.SIDE, cifar.SIDE, 3))
    features = tfds.features.FeaturesDict({"id": tfds.features.Text(), "image": image, **features})
    splits = {"train": examples("train", train, labels), "test": examples("test", test, labels)}
    return prepared.write(directory, name, version, features, splits)
