import hashlib
import json
import pickle
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workloads.data import subwords
from workloads.data.subwords import BEGIN, END, PADDING, UNKNOWN, Vocabulary, trained
from workloads.workload import DataError

WORDS = ("ship", "ships", "sailing", "sailed", "harbour", "the", "a", "of", "over", "seas", "Schiff", "Häfen", "ﬁne")
RECORDS = [
    {"text": " ".join(WORDS[i * j % len(WORDS)] for j in range(3, 9 + i % 5)).encode(), "other": b"xyzzy" * (i % 3)}
    for i in range(200)
]
CLASSES = 320


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def train(data_hash="0" * 64, classes=CLASSES, fields=("text",), records=RECORDS):
    return trained("tales/of sea".replace(" ", "-"), data_hash, classes, fields, lambda: records)


@pytest.fixture(scope="module")
def vocabulary(cache):
    return train()


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_training_is_deterministic(vocabulary, own_cache):
    again = train()
    assert again.folder != vocabulary.folder
    assert again.folder.name == vocabulary.folder.name
    assert again.sha256 == vocabulary.sha256
    assert again.encode(["a sailing ship"]) == vocabulary.encode(["a sailing ship"])


def test_it_is_trained_once(vocabulary):
    again = trained("tales/of-sea", "0" * 64, CLASSES, ("text",), lambda: pytest.fail("trained again"))
    assert again == vocabulary


def test_its_name_depends_on_what_it_is_trained_on_and_how(vocabulary, monkeypatch):
    others = [train(data_hash="1" * 64), train(classes=310), train(fields=("text", "other"))]
    monkeypatch.setattr(subwords, "SENTENCES", 50)
    others.append(train())
    assert len({each.folder.name for each in (vocabulary, *others)}) == 5


def test_how_it_was_trained_is_recorded(vocabulary):
    recorded = json.loads((vocabulary.folder / "training.json").read_text())
    assert recorded["data_set"] == "tales/of-sea"
    assert recorded["sentences"] == subwords.SENTENCES
    assert recorded["seed"] == subwords.SEED
    assert recorded["sentencepiece"] == {**subwords.TRAINING, "vocab_size": CLASSES}
    assert recorded["sha256"] == vocabulary.sha256


def test_the_sample_is_no_larger_than_stated_and_of_all_fields(monkeypatch):
    records = [{"de": f"de {i}", "en": f"en {i}"} for i in range(40)]
    monkeypatch.setattr(subwords, "SENTENCES", 10)
    drawn = list(subwords._sentences(records, ("de", "en")))
    assert len(drawn) == len(set(drawn)) == 10
    numbers = [sentence.split()[1] for sentence in drawn]
    assert numbers[::2] == numbers[1::2]
    assert drawn == list(subwords._sentences(records, ("de", "en")))
    assert numbers[::2] != [str(i) for i in range(5)]


def test_ids(vocabulary):
    assert (PADDING, BEGIN, END, UNKNOWN) == (0, 1, 2, 3)
    (ids,) = vocabulary.encode(["the ships sailed over seas"])
    assert ids[-1] == END
    assert all(UNKNOWN < i < CLASSES for i in ids[:-1])
    assert len(ids) < 20  # subwords, not characters


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\0"), max_size=30))
def test_all_text_comes_back_as_it_was(vocabulary, sentence):
    (ids,) = vocabulary.encode([sentence])
    assert max(ids) < CLASSES
    assert vocabulary.decode(ids) == sentence
    assert vocabulary.decode([BEGIN, 10_000, *ids, 7, PADDING]) == sentence


def test_many_sentences_are_encoded_as_one_by_one(vocabulary):
    sentences = [record["text"].decode() for record in RECORDS]
    assert vocabulary.encode(sentences) == [vocabulary.encode([sentence])[0] for sentence in sentences]


def test_it_travels_without_what_it_loaded(vocabulary):
    vocabulary.encode(["ship"])
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy == vocabulary
    assert vars(copy).keys() == {"folder", "classes"}


def refused(vocabulary, *words):
    """Of the vocabulary as another process finds it."""
    with pytest.raises(DataError) as caught:
        Vocabulary(vocabulary.folder, vocabulary.classes).encode(["ship"])
    message = str(caught.value)
    assert message.startswith(f"{vocabulary.folder}: damaged or foreign vocabulary (")
    assert message.endswith("; remove the folder and run again")
    assert len(message.splitlines()) == 1
    assert all(word in message for word in words)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: content + b" "])
def test_a_damaged_vocabulary_is_refused(own_cache, damage):
    vocabulary = train()
    path = vocabulary.folder / "subwords.model"
    path.write_bytes(damage(path.read_bytes()))
    refused(vocabulary, "sha256", vocabulary_sha256(vocabulary)[:12])
    with pytest.raises(DataError, match="damaged or foreign vocabulary"):
        _ = train().sha256


def vocabulary_sha256(vocabulary):
    return json.loads((vocabulary.folder / "training.json").read_text())["sha256"]


@pytest.mark.parametrize("name", ["subwords.model", "training.json"])
def test_a_vocabulary_that_lacks_a_file_is_refused(own_cache, name):
    vocabulary = train()
    (vocabulary.folder / name).unlink()
    refused(vocabulary, "cannot be read", name)


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_damaged_record_is_refused(own_cache, content):
    vocabulary = train()
    (vocabulary.folder / "training.json").write_text(content)
    refused(vocabulary, "cannot be read")


def put(vocabulary, model):
    """Puts another model in the place of a vocabulary's, with its record."""
    (vocabulary.folder / "subwords.model").write_bytes(model)
    (vocabulary.folder / "training.json").write_text(json.dumps({"sha256": hashlib.sha256(model).hexdigest()}))


def other_model(**changes):
    sentences = subwords._sentences(RECORDS, ("text",))
    return subwords._train("tales", sentences, {**subwords.TRAINING, "vocab_size": CLASSES, **changes})


def test_foreign_vocabularies_are_refused(own_cache):
    vocabulary = train()
    put(vocabulary, b"no model at all")
    refused(vocabulary, "no vocabulary of SentencePiece")
    put(vocabulary, other_model(pad_id=3, unk_id=0))
    refused(vocabulary, "ids of padding, begin, end and unknown", "(3, 1, 2, 0)")
    put(vocabulary, other_model())
    refused(Vocabulary(vocabulary.folder, 270), "subwords, expected at most 270")


def test_a_character_outside_the_vocabulary_is_named(own_cache):
    vocabulary = train()
    put(vocabulary, other_model(byte_fallback=False, vocab_size=60))
    fresh = Vocabulary(vocabulary.folder, CLASSES)
    assert fresh.decode(fresh.encode(["the ships"])[0]) == "the ships"
    with pytest.raises(DataError, match=r"no subword for the character 'λ'\); remove the folder and run again$"):
        fresh.encode(["the ships", "of λόγος"])


def test_nothing_to_train_on_is_refused(own_cache):
    with pytest.raises(DataError, match=r"^tales/of-sea: no vocabulary can be trained on its text \(.*prepare it") as e:
        train(records=[{"text": b""}] * 3)
    assert len(str(e.value).splitlines()) == 1


def test_a_missing_package_is_named(vocabulary, own_cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    for ask in (train, lambda: Vocabulary(vocabulary.folder, CLASSES).encode(["ships"])):
        with pytest.raises(DataError, match=r"^the package sentencepiece is missing; .*playbook-bench\[data\]'$"):
            ask()
