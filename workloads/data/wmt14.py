"""`wmt14_translate/de-en`: 4.5 million pairs of German and English sentences (Bojar et al. 2014, W14-3302).

German is translated to English, as by AlgoPerf (Dahl et al. 2023, arXiv 2306.07179), whose target of 30.85 BLEU is on
the same validation split, newstest2013. AlgoPerf trains on WMT17 and leaves out pairs longer than 256 tokens; here
training is on WMT14, and longer ones are cut.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from workloads.data import prepared
from workloads.data.packing import shifted
from workloads.data.subwords import BEGIN, Vocabulary, text, trained
from workloads.data.tokens import Tokens, packed_splits
from workloads.workload import Splits

NAME = "wmt14_translate/de-en"

VERSIONS = ("1.0.0",)

CLASSES = 32_000
"""Subwords of both languages, padding, id 0, included."""

LENGTH = 256
"""Tokens of each side of an example."""


def find() -> Path:
    """Finds the prepared data set; raises DataError with the command that prepares it."""
    prepared.check_packages(NAME, ("sentencepiece", "sacrebleu"))  # before a training that BLEU ends
    return prepared.find(NAME, VERSIONS)


def hashes() -> dict[str, str]:
    """Hashes of the data set and of the vocabulary, which is trained where the cache lacks it; raises DataError."""
    return {NAME: prepared.content_hash(find()), f"{NAME} vocabulary": vocabulary().sha256}


def vocabulary() -> Vocabulary:
    """Finds or trains the vocabulary of 32,000 subwords that both languages share; raises DataError."""
    folder = find()
    return trained(
        NAME, prepared.content_hash(folder), CLASSES, ("de", "en"), partial(prepared.records, folder, "train")
    )


def streams(length: int) -> Splits:
    """Packs the pairs: those of `train` for training, and the 3,000 of `validation`, newstest2013.

    Args:
      length: tokens of each side of an example; longer sentences are cut.

    Returns:
      Streams of `source`, for each pair the German subwords and `END`; `input`, `BEGIN` and the English subwords;
      `label`, the English subwords and `END`; of the source `source_segment`, the pair from 1, and `source_position`,
      that in the sentence; and of input and label `segment` and `position`: all int32 (length,), padded with 0.

    Raises:
      DataError: not prepared, or from the vocabulary and the tokens.
    """
    return packed_splits(NAME, find(), ("de", "en"), vocabulary(), "validation", length, PackedPairs)


def pairs(split: str) -> list[tuple[str, str]]:
    """Reads the German and English sentences of a split; raises DataError where it is not prepared."""
    return [(text(record["de"]), text(record["en"])) for record in prepared.records(find(), split)]


@dataclass(frozen=True)
class PackedPairs:
    """Makes the example of a pack of pairs.

    Attributes:
      german: tokens of the sources.
      english: tokens of the targets.
      length: of each side of the example.
    """

    german: Tokens
    english: Tokens
    length: int

    def __call__(self, documents: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Gives the fields of `streams` for the pack of (first pair, the one behind the last)."""
        source, source_segment, source_position = self.german.packed(documents, self.length)
        label, segment, position = self.english.packed(documents, self.length)
        return {
            "source": source,
            "source_segment": source_segment,
            "source_position": source_position,
            "input": shifted(label, segment, position, BEGIN),
            "label": label,
            "segment": segment,
            "position": position,
        }
