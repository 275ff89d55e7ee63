"""From records of JPEG photographs, `image`, `label` and `file_name`, to examples for a network of one input size."""

from typing import Any

import numpy as np

from workloads.data.image_transforms import centre_crop, random_flip, random_resized_crop


def training_example(
    record: dict[str, Any], generator: np.random.Generator, dataset: str, side: int
) -> dict[str, np.ndarray]:
    """Augments by a random resized crop and a flip (Goyal et al. 2017, arXiv 1706.02677, without colours).

    Args:
      record: from `workloads.data.prepared.records`.
      generator: the randomness of this example.
      dataset: its name, for errors.
      side: of the image.

    Returns:
      `image`, uint8 (side, side, 3), and `label`, int32 ().

    Raises:
      DataError: the image does not decode.
    """
    image = random_flip(random_resized_crop(record["image"], side, generator, _name(record, dataset)), generator)
    return {"image": image, "label": np.array(record["label"], np.int32)}


def evaluation_example(
    record: dict[str, Any], generator: np.random.Generator, dataset: str, side: int
) -> dict[str, np.ndarray]:
    """Cuts out the middle; arguments, fields and errors are those of `training_example`."""
    del generator  # nothing here is random
    image = centre_crop(record["image"], side, _name(record, dataset))
    return {"image": image, "label": np.array(record["label"], np.int32)}


def _name(record: dict[str, Any], dataset: str) -> str:
    return f"{dataset}: image {record['file_name'].decode()}"
