"""Packing: several documents side by side in one example of fixed length, so that little of a batch is padding."""

from array import array

import numpy as np


def next_fit(lengths: list[np.ndarray], capacity: int) -> np.ndarray:
    """Distributes documents over packs by next-fit: in their order, each into the last pack where it still fits.

    Args:
      lengths: of the documents, int (documents,); of pairs, of both sides, of which each must fit.
      capacity: length of each side of a pack, at least 1; of a longer document counts what it is cut to.

    Returns:
      Of each pack, its first document and the one behind its last, int64 (packs, 2).
    """
    documents = len(lengths[0])
    following = np.full(documents, documents, np.int64)
    for side in lengths:
        ends = np.cumsum(np.minimum(side, capacity), dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        following = np.minimum(following, np.searchsorted(ends, starts + capacity, side="right"))
    borders, of = array("q", [0]), memoryview(following)  # both several times as fast as NumPy, one number at a time
    while borders[-1] < documents:
        borders.append(of[borders[-1]])
    return np.stack([borders[:-1], borders[1:]], axis=1)


def pack(ids: np.ndarray, lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lays documents side by side, each cut to the capacity; together they must fit.

    Args:
      ids: of the documents, one after another.
      lengths: of the documents, int (documents,).
      capacity: length of the example.

    Returns:
      Ids; segments, the number of a token's document from 1; and positions, the number of a token in its document from
      0: all int32 (capacity,), padded with 0.
    """
    segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    positions = np.arange(len(segments)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = positions < capacity
    padded = np.zeros((3, capacity), np.int32)
    padded[:, : np.count_nonzero(kept)] = ids[kept], segments[kept], positions[kept]
    return padded[0], padded[1], padded[2]


def shifted(labels: np.ndarray, segments: np.ndarray, positions: np.ndarray, begin: int) -> np.ndarray:
    """Computes what a model reads where it is to predict labels.

    Args:
      labels: from `pack`, as are the two others.
      segments: of the labels.
      positions: of the labels.
      begin: id that begins every document.

    Returns:
      int32 (capacity,): of each document, `begin` and then the labels but for the last; padded with 0.
    """
    before = np.where(positions == 0, begin, np.roll(labels, 1))
    return np.where(segments == 0, 0, before).astype(np.int32)
