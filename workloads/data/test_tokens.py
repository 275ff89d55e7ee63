import pickle

import numpy as np
import pytest

from workloads.data import tokens as tokens_module
from workloads.data.subwords import END, trained
from workloads.data.tokens import tokenized
from workloads.workload import DataError

RECORDS = [
    {"de": f"Schiff {i} fährt über das Meer".encode(), "en": f"ship {i}{' sails' * (i % 4)}".encode()}
    for i in range(100)
]


@pytest.fixture
def vocabulary(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return trained("sea", "0" * 64, 330, ("de", "en"), lambda: RECORDS)


def encode(vocabulary, data_hash="0" * 64, split="train", records=lambda: RECORDS):
    return tokenized("sea/de-en", split, data_hash, ("de", "en"), records, vocabulary)


def test_every_document_is_there_once_in_order(vocabulary, monkeypatch):
    monkeypatch.setattr(tokens_module, "_CHUNK", 7)  # which does not divide 100
    for field, tokens in zip(("de", "en"), encode(vocabulary), strict=True):
        assert tokens.ids.dtype == np.uint16
        assert np.count_nonzero(tokens.ids == END) == 100
        documents = np.split(tokens.ids, tokens.offsets[1:-1])
        assert [vocabulary.decode(document) for document in documents] == [r[field].decode() for r in RECORDS]


class ManyAtATime:
    def __len__(self):
        return len(RECORDS)

    def __getitems__(self, indices):
        return [RECORDS[i] for i in indices]


def test_records_are_read_many_at_a_time_where_they_can_be(vocabulary, tmp_path, monkeypatch):
    expected = encode(vocabulary)[0].ids.tolist()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert encode(vocabulary, records=ManyAtATime)[0].ids.tolist() == expected


def test_a_pack_holds_its_documents(vocabulary):
    _, english = encode(vocabulary)
    ids, segments, _ = english.packed(np.array([3, 6]), 64)
    texts = [vocabulary.decode(ids[segments == segment]) for segment in (1, 2, 3)]
    assert texts == [record["en"].decode() for record in RECORDS[3:6]]
    assert segments.max() == 3


def test_a_split_is_encoded_once(vocabulary):
    first = encode(vocabulary)
    assert encode(vocabulary, records=lambda: pytest.fail("encoded again")) == first
    assert encode(vocabulary, split="test") != first
    assert encode(vocabulary, data_hash="1" * 64) != first
    assert encode(trained("sea", "0" * 64, 320, ("de", "en"), lambda: RECORDS)) != first


def test_it_travels_as_its_path(vocabulary):
    tokens, _ = encode(vocabulary)
    size = len(pickle.dumps(tokens))
    assert len(tokens.ids) > size
    copy = pickle.loads(pickle.dumps(tokens))
    np.testing.assert_array_equal(copy.ids, tokens.ids)


@pytest.mark.parametrize("name", ["de.ids", "en.ids", "de.offsets.npy"])
@pytest.mark.parametrize("damage", ["cut", "cut to nothing", "missing"])
def test_damaged_tokens_are_refused(vocabulary, name, damage):
    path = encode(vocabulary)[0].folder / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else b"")
    with pytest.raises(DataError) as caught:
        encode(vocabulary)
    message = str(caught.value)
    assert message.startswith(f"{path.parent}: damaged tokens ({name} ")
    assert message.endswith("; remove the folder and run again")
    assert len(message.splitlines()) == 1
