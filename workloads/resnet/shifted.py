"""A ResNet whose training images are augmented by shifts, to be held against the same one without."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from workloads.resnet.workload import ResNet
from workloads.workload import Splits, check_at_least


@dataclasses.dataclass(frozen=True)
class ShiftedResNet(ResNet):
    """A ResNet on every training image and its shifts to the eight directions, the edge repeated.

    All nine copies are held, from which batches are drawn without replacement: the copies are the whole of the
    augmentation, so that no image has to be shifted anew.

    Attributes:
      shift: pixels, at least 1.
    """

    shift: int = 1

    def __post_init__(self) -> None:
        """Checks every field."""
        super().__post_init__()
        check_at_least("shift", self.shift, 1)

    @classmethod
    def of(cls, plain: ResNet, shift: int) -> ShiftedResNet:
        """The augmented counterpart of a ResNet on images that are held as arrays."""
        fields: dict[str, Any] = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
        return cls(**fields, shift=shift)

    def data(self, split_seed: int) -> Splits:
        """See `workloads.workload.Workload`; the validation images are as they were."""
        splits = super().data(split_seed)
        directions = list(itertools.product((-self.shift, 0, self.shift), repeat=2))
        images = [_shifted(splits.train["image"], self.shift, *direction) for direction in directions]
        train = {name: np.concatenate([values] * len(directions)) for name, values in splits.train.items()}
        return Splits({**train, "image": np.concatenate(images)}, splits.validation)


def _shifted(images: np.ndarray, most: int, down: int, right: int) -> np.ndarray:
    """Images, (n, height, width, channels), moved by pixels of size `most` or less."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    return padded[:, most - down : most - down + height, most - right : most - right + width]
