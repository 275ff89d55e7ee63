"""`lm1b`: the One Billion Word benchmark (Chelba et al. 2013, arXiv 1312.3005), 30,301,028 English sentences."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from workloads.data import prepared
from workloads.data.packing import shifted
from workloads.data.subwords import BEGIN, Vocabulary, trained
from workloads.data.tokens import Tokens, packed_splits
from workloads.workload import Splits

NAME = "lm1b"

VERSIONS = ("1.1.0",)

CLASSES = 30_000
"""Subwords, padding, id 0, included."""


def find() -> Path:
    """Finds the prepared data set; raises DataError with the command that prepares it."""
    return prepared.find(NAME, VERSIONS)


def hashes() -> dict[str, str]:
    """Hashes of the data set and of the vocabulary, which is trained where the cache lacks it; raises DataError."""
    return {NAME: prepared.content_hash(find()), f"{NAME} vocabulary": vocabulary().sha256}


def vocabulary() -> Vocabulary:
    """Finds or trains the vocabulary of 30,000 subwords; raises DataError."""
    folder = find()
    records = partial(prepared.records, folder, "train")
    return trained(NAME, prepared.content_hash(folder), CLASSES, ("text",), records)


def streams(length: int) -> Splits:
    """Packs the sentences: those of `train` for training, and the 306,688 of `test` for validation.

    Args:
      length: tokens of an example; longer sentences are cut.

    Returns:
      Streams of `input`, for each sentence `BEGIN` and its subwords; `label`, the subwords and `END`; `segment`, the
      sentence from 1, and `position`, that in the sentence: all int32 (length,), padded with 0.

    Raises:
      DataError: not prepared, or from the vocabulary and the tokens.
    """
    return packed_splits(NAME, find(), ("text",), vocabulary(), "test", length, Packed)


@dataclass(frozen=True)
class Packed:
    """Makes the example of a pack of sentences.

    Attributes:
      tokens: of the split.
      length: of the example.
    """

    tokens: Tokens
    length: int

    def __call__(self, documents: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Gives the fields of `streams` for the pack of (first document, the one behind the last)."""
        label, segment, position = self.tokens.packed(documents, self.length)
        fields = {"input": shifted(label, segment, position, BEGIN), "label": label}
        return {**fields, "segment": segment, "position": position}
