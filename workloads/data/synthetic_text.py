"""Small data sets of LM1B's and WMT14's schemas, that tests of the published road run on; they show nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workloads.data import lm1b, prepared, wmt14

WORDS = {"null": "zero", "eins": "one", "zwei": "two", "drei": "three", "vier": "four"}
WORDS |= {"fünf": "five", "sechs": "six", "sieben": "seven", "acht": "eight", "neun": "nine"}


def pairs(count: int, first: int = 0) -> list[tuple[str, str]]:
    """Counts in German and English; a pair is a function of its number: two to six random digits and a full stop."""
    german = list(WORDS)
    drawn = []
    for i in range(first, first + count):
        random = np.random.default_rng(i)
        words = [german[digit] for digit in random.integers(0, len(german), random.integers(2, 7))]
        drawn.append((" ".join(words) + " .", " ".join(WORDS[word] for word in words) + " ."))
    return drawn


def prepare_lm1b(directory: Path, train: Sequence[str], test: Sequence[str], version: str = "1.1.0") -> Path:
    """Prepares `lm1b` as TFDS would, but for its sentences, in a data directory of TFDS; gives its folder."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    splits = {"train": [{"text": text} for text in train], "test": [{"text": text} for text in test]}
    return _write(directory, lm1b.NAME, version, features, splits)


def prepare_wmt14(
    directory: Path, train: Sequence[tuple[str, str]], validation: Sequence[tuple[str, str]], version: str = "1.0.0"
) -> Path:
    """Prepares `wmt14_translate/de-en` as TFDS would, but for its sentences, pairs of German and English ones."""
    import tensorflow_datasets as tfds

    features = tfds.features.Translation(languages=("de", "en"))
    parts = {"train": train, "validation": validation}
    splits = {name: [{"de": german, "en": english} for german, english in part] for name, part in parts.items()}
    return _write(directory, wmt14.NAME, version, features, splits)


def _write(directory: Path, name: str, version: str, features: Any, splits: dict[str, list[dict]]) -> Path:
    numbered = {split: list(enumerate(records)) for split, records in splits.items()}
    return prepared.write(directory, name, version, features, numbered, shards=2)
