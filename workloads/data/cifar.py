"""`cifar10` and `cifar100`: 50,000 colour images of 32x32, of 10 or 100 kinds of object, prepared by TFDS.

Published errors are those of 10,000 test images, after training on all 50,000. Here 5,000 of the 50,000 are held out
to validate on, since hyperparameters are tuned and checkpoints chosen by validation error, and what has chosen cannot
also judge. The test images are not read. So a published error is one of a little more training data, and no run here
repeats it to the digit.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from workloads.data import prepared
from workloads.data.image_transforms import decode, random_flip, random_shift
from workloads.workload import Splits, Stream

VERSIONS = ("3.0.2",)
"""Of TFDS, both."""

SIDE = 32
CLASSES = {"cifar10": 10, "cifar100": 100}

HELD_OUT = 0.1
"""Share of the training images that is held out: 5,000."""

MEAN = {"cifar10": (125.3, 123.0, 113.9), "cifar100": (129.3, 124.1, 112.4)}
"""Of red, green and blue over all training pixels from 0 to 255; published with Zagoruyko and Komodakis 2016 (WRN)."""

DEVIATION = {"cifar10": (63.0, 62.1, 66.7), "cifar100": (68.2, 65.4, 70.4)}
"""Standard deviations of the same."""


def find(name: str) -> Path:
    """Finds `cifar10` or `cifar100` prepared; raises DataError as `workloads.data.prepared.find` does."""
    return prepared.find(name, VERSIONS)


def content_hash(name: str) -> str:
    """Gives `workloads.data.prepared.content_hash` of it; raises DataError."""
    return prepared.content_hash(find(name))


def streams(name: str, split_seed: int) -> Splits:
    """Opens the training images as 45,000 to train on and 5,000 to validate on.

    Args:
      name: `cifar10` or `cifar100`.
      split_seed: decides which images are held out.

    Returns:
      Two streams of `image`, uint8 (32, 32, 3), and `label`, int32 (), of `cifar100` the fine label; training images
      are shifted by up to 4 pixels, with reflections behind the edge, and every other one flipped.

    Raises:
      DataError: from `find`; from the streams, a record that cannot be read or an image that does not decode.
    """
    records = prepared.records(find(name), "train")
    order = np.random.default_rng(split_seed).permutation(len(records))
    held_out = round(HELD_OUT * len(records))
    return Splits(
        train=Stream(prepared.chosen(records, order[held_out:]), partial(training_example, dataset=name)),
        validation=Stream(prepared.chosen(records, order[:held_out]), partial(evaluation_example, dataset=name)),
    )


def training_example(record: dict[str, Any], generator: np.random.Generator, dataset: str) -> dict[str, np.ndarray]:
    """Augments an image by a shift and a flip; see `streams`."""
    example = evaluation_example(record, generator, dataset)
    return {**example, "image": random_flip(random_shift(example["image"], generator), generator)}


def evaluation_example(record: dict[str, Any], generator: np.random.Generator, dataset: str) -> dict[str, np.ndarray]:
    """Decodes an image; raises DataError."""
    del generator  # nothing here is random
    image = decode(record["image"], f"{dataset}: image {record['id'].decode()}")
    return {"image": image, "label": np.array(record["label"], np.int32)}
