"""`imagenet2012`: 1,281,167 photographs of 1,000 kinds of object, JPEGs of many sizes, and 50,000 to validate on.

TFDS prepares it (`workloads.data.prepared`) from archives that have to be downloaded by hand.
"""

from functools import partial
from pathlib import Path

from workloads.data import prepared
from workloads.data.jpeg_examples import evaluation_example, training_example
from workloads.workload import Splits, Stream

VERSIONS = ("5.1.0", "5.0.0")
"""Of TFDS; 5.1.0 has test images without labels as well."""

CLASSES = 1000

MEAN = (123.675, 116.28, 103.53)
"""Of red, green and blue over training pixels from 0 to 255; torchvision's .485, .456 and .406."""

DEVIATION = (58.395, 57.12, 57.375)
"""Standard deviations of the same; torchvision's .229, .224 and .225."""


def find() -> Path:
    """Finds the prepared data set; raises DataError as `workloads.data.prepared.find` does."""
    return prepared.find("imagenet2012", VERSIONS)


def content_hash() -> str:
    """Gives `workloads.data.prepared.content_hash` of it; raises DataError."""
    return prepared.content_hash(find())


def streams(split_seed: int, side: int) -> Splits:
    """Opens both splits as published results have them: error is that of the 50,000 validation images.

    Args:
      split_seed: decides nothing, since the validation images are others than the training images.
      side: side of the square images, 224 in published results.

    Returns:
      Two streams of `image`, uint8 (side, side, 3), and `label`, int32 (); training images are random resized crops,
      every other one flipped, and validation images central crops.

    Raises:
      DataError: from `find`; from the streams, a record that cannot be read or an image that does not decode.
    """
    del split_seed
    folder, options = find(), {"dataset": "imagenet2012", "side": side}
    return Splits(
        train=Stream(prepared.records(folder, "train"), partial(training_example, **options)),
        validation=Stream(prepared.records(folder, "validation"), partial(evaluation_example, **options)),
    )
