"""Token files: a split of a data set as ids of subwords, encoded once and mapped into memory."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import numpy as np

from workloads.data import prepared
from workloads.data.made_once import made_once
from workloads.data.packing import next_fit, pack
from workloads.data.pipeline import read_many
from workloads.data.subwords import Vocabulary, text
from workloads.workload import DataError, Splits, Stream

_CHUNK = 2**14
"""Sentences that are encoded, and in memory, at a time."""


@dataclass(frozen=True)
class Tokens:
    """The documents of one field of a split, one after another; it travels as its path.

    Attributes:
      folder: holds `<field>.ids` and `<field>.offsets.npy`.
      field: of the records.
    """

    folder: Path
    field: str

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each document begins and the last one ends, int64 (documents + 1,)."""
        path = self.folder / f"{self.field}.offsets.npy"
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            raise self._refused(f"{path.name} is missing or cut off") from None

    @cached_property
    def ids(self) -> np.ndarray:
        """Ids of all documents, each of which ends in `subwords.END`, uint16 (offsets[-1],); raises DataError."""
        path = self.folder / f"{self.field}.ids"
        expected = 2 * int(self.offsets[-1])
        found = path.stat().st_size if path.is_file() else 0
        if found != expected:
            raise self._refused(f"{path.name} has {found} bytes, expected {expected}")
        return np.memmap(path, "<u2", "r")

    def checked(self) -> "Tokens":
        """Gives itself where its files are whole, else raises DataError."""
        len(self.ids)
        return self

    def packed(self, documents: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lays the documents from the first to the one before the last side by side, see `workloads.data.packing`."""
        first, stop = documents
        offsets = self.offsets[first : stop + 1]
        return pack(self.ids[offsets[0] : offsets[-1]], np.diff(offsets), length)

    def _refused(self, reason: str) -> DataError:
        return DataError(f"{self.folder}: damaged tokens ({reason}); remove the folder and run again")

    def __reduce__(self) -> tuple:
        """Travels without the mapped arrays, which pickle would copy."""
        return Tokens, (self.folder, self.field)


def packed_splits(
    data_set: str,
    folder: Path,
    fields: Sequence[str],
    vocabulary: Vocabulary,
    validation: str,
    length: int,
    example: Callable[..., Callable[[np.ndarray, np.random.Generator], dict[str, np.ndarray]]],
) -> Splits:
    """Packs the documents of `train` to train on, and those of another split to validate on.

    Args:
      data_set: name.
      folder: of the prepared data set.
      fields: of a record that are text; a pack has room for all of them.
      vocabulary: of the fields.
      validation: split to validate on.
      length: tokens of each field of an example; longer documents are cut.
      example: from the tokens of each field, and the length, to `workloads.workload.Stream.prepare`, whose records are
        first document and the one behind the last.

    Raises:
      DataError: from `tokenized`.
    """
    data_hash = prepared.content_hash(folder)

    def stream(split: str) -> Stream:
        records = partial(prepared.records, folder, split)
        tokens = tokenized(data_set, split, data_hash, fields, records, vocabulary)
        return Stream(next_fit([np.diff(field.offsets) for field in tokens], length), example(*tokens, length))

    return Splits(train=stream("train"), validation=stream(validation))


def tokenized(
    data_set: str,
    split: str,
    data_hash: str,
    fields: Sequence[str],
    records: Callable[[], Sequence[dict]],
    vocabulary: Vocabulary,
) -> list[Tokens]:
    """Finds the tokens of a split in the cache, or encodes it, which takes minutes for millions of sentences.

    Args:
      data_set: name.
      split: of the data set.
      data_hash: of its content.
      fields: of a record that are text.
      records: gives the split.
      vocabulary: of at most 65,536 subwords.

    Returns:
      Of each field, checked.

    Raises:
      DataError: a character is outside of the vocabulary, the cache cannot be written, or what it holds is damaged.
    """

    def make(folder: Path) -> None:
        _encode(folder, fields, records(), vocabulary)

    content = json.dumps([data_hash, vocabulary.sha256, split, list(fields)])
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = made_once("tokens", f"{data_set.replace('/', '-')}-{split}-{key}", make)
    return [Tokens(folder, field).checked() for field in fields]


def _encode(folder: Path, fields: Sequence[str], records: Sequence[dict], vocabulary: Vocabulary) -> None:
    offsets = {field: np.zeros(len(records) + 1, np.int64) for field in fields}
    for start in range(0, len(records), _CHUNK):
        stop = min(start + _CHUNK, len(records))
        chunk = read_many(records, range(start, stop))
        for field in fields:
            documents = vocabulary.encode([text(record[field]) for record in chunk])
            offsets[field][start + 1 : stop + 1] = [len(document) for document in documents]
            with (folder / f"{field}.ids").open("ab") as file:
                file.write(np.fromiter(chain.from_iterable(documents), "<u2").tobytes())
    for field in fields:
        np.save(folder / f"{field}.offsets.npy", np.cumsum(offsets[field]))
