"""Small data sets of LM1B's and WMT14's schemas, that tests of the published road run on; they show nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
    splits = {name: [{"text": text} for text in texts] for name, texts in (("train", train), ("test", test))}
    return _prepare(directory, "lm1b", None, version, features, splits)


def prepare_wmt14(
    directory: Path, train: Sequence[tuple[str, str]], validation: Sequence[tuple[str, str]], version: str = "1.0.0"
) -> Path:
    """Prepares `wmt14_translate/de-en` as TFDS would, but for its sentences, pairs of German and English ones."""
    import tensorflow_datasets as tfds

    features = tfds.features.Translation(languages=("de", "en"))
    splits = {"train": train, "validation": validation}
    records = {name: [{"de": german, "en": english} for german, english in of] for name, of in splits.items()}
    return _prepare(directory, "wmt14_translate", "de-en", version, features, records)


def _prepare(
    directory: Path, data_set: str, config: str | None, version: str, features: Any, splits: dict[str, list[dict]]
) -> Path:
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = data_set
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [] if config is None else [tfds.core.BuilderConfig(name=config)]

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager: Any) -> dict[str, Any]:
            return {name: enumerate(records) for name, records in splits.items()}

        def _generate_examples(self) -> None:
            """Nothing, but TFDS asks for it."""

    builder = Builder(config=config, data_dir=directory, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
    return Path(builder.data_dir)
