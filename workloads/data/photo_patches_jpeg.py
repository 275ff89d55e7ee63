"""`photo_patches_jpeg`: the tiles of `photo_patches` as JPEGs, on the same road as ImageNet.

There are 534 tiles of 64x64 pixels of ten photographs, one class each: a pass over the training tiles is short, and
augmentation gives the variety. TFDS writes them as array_record on first use, in about a second. What the task is, and
what it is not, is said in `workloads.data.photo_patches`.
"""

import io
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from workloads.data import photo_patches, prepared
from workloads.data.jpeg_examples import evaluation_example, training_example
from workloads.data.made_once import made_once
from workloads.data.photo_patches import TILE
from workloads.workload import Splits, Stream

NAME = "photo_patches_jpeg"
VERSION = "1.0.0"
"""Of how the tiles are written; another way of writing them needs another number."""

CLASSES = photo_patches.CLASSES
QUALITY = 95

MEAN = (125.5, 97.4, 86.9)
"""Of red, green and blue over the pixels of all tiles, from 0 to 255, before they are encoded."""

DEVIATION = (82.5, 65.4, 67.3)
"""Standard deviations of the same."""


def find() -> Path:
    """Finds the prepared tiles, and prepares them first where they are not there.

    They lie below `tensorflow_datasets` in the cache of `workloads.data.made_once`.

    Raises:
      DataError: the extra `data` or a package of photographs is missing; the folder is damaged, or cannot be written.
    """
    prepared.check_packages(NAME)
    folder = made_once(f"tensorflow_datasets/{NAME}", VERSION, _write)
    prepared.check(NAME, folder, "run this again, which prepares it")
    return folder


def content_hash() -> str:
    """Gives `workloads.data.prepared.content_hash` of the tiles; raises DataError."""
    return prepared.content_hash(find())


def streams(split_seed: int, side: int) -> Splits:
    """Holds out about a fifth of each photograph's tiles, the same as `photo_patches` with this seed.

    Args:
      split_seed: decides which tiles are held out.
      side: side of the square images.

    Returns:
      Two streams of 427 and 107 examples, `image`, uint8 (side, side, 3), and `label`, int32 (); training images are
      random resized crops of tiles, every other one flipped, and validation images central crops of 56 pixels.

    Raises:
      DataError: from `find`; from the streams, a record that cannot be read or an image that does not decode.
    """
    records, options = prepared.records(find(), "tiles"), {"dataset": NAME, "side": side}
    positions = {record["file_name"].decode(): position for position, record in enumerate(records)}
    parts = photo_patches.split_tiles(np.random.default_rng(split_seed))
    train, held_out = (
        [positions[_file_name(label, *corner)] for label, corners in enumerate(part) for corner in corners]
        for part in parts
    )
    return Splits(
        train=Stream(prepared.chosen(records, train), partial(training_example, **options)),
        validation=Stream(prepared.chosen(records, held_out), partial(evaluation_example, **options)),
    )


def _file_name(label: int, top: int, left: int) -> str:
    return f"photograph{label}_{top}_{left}.jpg"


def _tiles() -> Iterator[tuple[str, dict[str, Any]]]:
    """Gives key and record of every tile; raises DataError."""
    for label, photograph in enumerate(photo_patches.load()):
        for top in range(0, photograph.shape[0] - TILE + 1, TILE):
            for left in range(0, photograph.shape[1] - TILE + 1, TILE):
                encoded = io.BytesIO()
                tile = Image.fromarray(photograph[top : top + TILE, left : left + TILE])
                tile.save(encoded, "JPEG", quality=QUALITY)
                name = _file_name(label, top, left)
                yield name, {"image": encoded.getvalue(), "label": label, "file_name": name}


def _write(folder: Path) -> None:
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(TILE, TILE, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=CLASSES),
            "file_name": tfds.features.Text(),
        }
    )
    written = prepared.write(folder, NAME, VERSION, features, {"tiles": _tiles()})
    for path in written.iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(folder / NAME)
