"""Subword vocabularies: SentencePiece's unigram model (Kudo 2018, arXiv 1804.10959), trained once on a data set."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.data.made_once import made_once
from workloads.workload import DataError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

PADDING = 0
BEGIN = 1
END = 2
UNKNOWN = 3

SENTENCES = 200_000
"""The most sentences that a vocabulary is trained on, of all languages together."""

SEED = 0
"""Of the draw of these sentences."""

TRAINING = {
    "model_type": "unigram",
    "byte_fallback": True,  # no character is outside of the vocabulary
    # Text comes back as it was: BLEU compares it with references as they are written.
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "hard_vocab_limit": False,  # a small text has fewer subwords
    "pad_id": PADDING,
    "bos_id": BEGIN,
    "eos_id": END,
    "unk_id": UNKNOWN,
    "num_threads": 1,  # the order of sums, and with it the vocabulary, depends on the number
}
"""SentencePiece's settings; the others are its defaults."""


@dataclass(frozen=True)
class Vocabulary:
    """Subwords and their ids.

    Attributes:
      folder: holds `subwords.model`, and `training.json`, which says how it was trained and its sha256.
      classes: the most subwords, with padding, that it may have.
    """

    folder: Path
    classes: int

    @cached_property
    def sha256(self) -> str:
        """Hash of the file `subwords.model`; raises DataError where it is not the recorded one."""
        return hashlib.sha256(self._checked()).hexdigest()

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Encodes sentences, with `END` behind each, on all cores; raises DataError where a character has no id."""
        encoded = self._processor.encode(sentences, add_eos=True)
        for sentence, ids in zip(sentences, encoded, strict=True):
            if UNKNOWN in ids:
                outside = next(c for c in sentence if UNKNOWN in self._processor.encode(c))
                raise self._refused(f"it has no subword for the character {outside!r}")
        return encoded

    def decode(self, ids: Iterable[int]) -> str:
        """Gives the text of a sequence of ids up to `END`; padding, `BEGIN` and ids without a subword give nothing."""
        ids = np.asarray(ids)
        ended = np.logical_or.accumulate(ids == END)
        known = (ids > END) & (ids < self._processor.vocab_size())  # of a small text there are fewer than classes
        return self._processor.decode(ids[~ended & known].tolist())

    @cached_property
    def _processor(self) -> "SentencePieceProcessor":
        model = self._checked()
        processor = _sentencepiece().SentencePieceProcessor()
        try:
            processor.load_from_serialized_proto(model)
        except RuntimeError:
            raise self._refused("it is no vocabulary of SentencePiece") from None
        ids = (processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id())
        if ids != (PADDING, BEGIN, END, UNKNOWN):
            raise self._refused(f"its ids of padding, begin, end and unknown are {ids}, expected (0, 1, 2, 3)")
        if processor.vocab_size() > self.classes:
            raise self._refused(f"it has {processor.vocab_size()} subwords, expected at most {self.classes}")
        return processor

    def _checked(self) -> bytes:
        try:
            model = (self.folder / "subwords.model").read_bytes()
            recorded = json.loads((self.folder / "training.json").read_bytes())["sha256"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._refused(f"it cannot be read: {error}") from None
        found = hashlib.sha256(model).hexdigest()
        if found != recorded:
            raise self._refused(f"its sha256 is {found[:12]}, expected {recorded[:12]}")
        return model

    def _refused(self, reason: str) -> DataError:
        return DataError(f"{self.folder}: damaged or foreign vocabulary ({reason}); remove the folder and run again")

    def __reduce__(self) -> tuple:
        """Travels without what it has loaded."""
        return Vocabulary, (self.folder, self.classes)


def trained(
    data_set: str, data_hash: str, classes: int, fields: Sequence[str], records: Callable[[], Sequence[dict]]
) -> Vocabulary:
    """Finds a data set's vocabulary in the cache, or trains it, which takes minutes, on one thread.

    Args:
      data_set: name.
      data_hash: of its content.
      classes: number of subwords, with padding.
      fields: of a record that are text; they get one vocabulary.
      records: gives the training split.

    Raises:
      DataError: the text holds nothing to train on, or the cache cannot be written.
    """
    settings = {
        "data_set": data_set,
        "data_sha256": data_hash,
        "fields": list(fields),
        "sentences": SENTENCES,
        "seed": SEED,
        "sentencepiece": {**TRAINING, "vocab_size": classes},
    }

    def make(folder: Path) -> None:
        model = _train(data_set, _sentences(records(), fields), settings["sentencepiece"])
        (folder / "subwords.model").write_bytes(model)
        recorded = {**settings, "sha256": hashlib.sha256(model).hexdigest()}
        (folder / "training.json").write_text(json.dumps(recorded, indent=1) + "\n")

    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return Vocabulary(made_once("vocabularies", f"{data_set.replace('/', '-')}-{classes}-{key}", make), classes)


def text(value: bytes | str) -> str:
    """Gives a record's text, which is stored as UTF-8."""
    return value.decode() if isinstance(value, bytes) else value


def _sentences(records: Sequence[dict], fields: Sequence[str]) -> Iterator[str]:
    count = min(len(records), SENTENCES // len(fields))
    drawn = np.random.default_rng(SEED).choice(len(records), count, replace=False)
    for i in np.sort(drawn).tolist():
        record = records[i]
        yield from (text(record[field]) for field in fields)


def _train(data_set: str, sentences: Iterator[str], settings: dict[str, Any]) -> bytes:
    trainer, model = _sentencepiece().SentencePieceTrainer, BytesIO()
    try:
        trainer.train(sentence_iterator=sentences, model_writer=model, minloglevel=2, **settings)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{data_set}: no vocabulary can be trained on its text ({reason}); prepare it again") from None
    return model.getvalue()


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError:
        mend = "install it with: pip install 'playbook-bench[data]'"
        raise DataError(f"the package sentencepiece is missing; {mend}") from None
    return sentencepiece
