import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from workloads.data import prepared, synthetic_imagenet
from workloads.workload import DataError

VERSION = "5.1.0"
TRAIN, VALIDATION = 24, 6
COMMAND = "python -c \"import tensorflow_datasets as tfds; tfds.builder('{}', file_format='array_record')"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return synthetic_imagenet.prepare(tmp_path_factory.mktemp("original"), TRAIN, VALIDATION)


@pytest.fixture
def data_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def folder(original, data_directory):
    """A copy of the data set that may be damaged."""
    return Path(shutil.copytree(original, data_directory / "imagenet2012" / VERSION))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(ask, *words):
    with pytest.raises(DataError) as caught:
        ask()
    message = str(caught.value)
    assert message.startswith("imagenet2012: ")
    assert "\n" not in message
    assert all(str(word) in message for word in words), message
    return message


def find():
    return prepared.find("imagenet2012", (VERSION, "5.0.0"))


class TestFind:
    def test_a_whole_one(self, folder):
        assert find() == prepared.find("imagenet2012") == folder

    def test_by_default_below_home(self, original, tmp_path, monkeypatch):
        monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        folder = shutil.copytree(original, tmp_path / "tensorflow_datasets" / "imagenet2012" / VERSION)
        assert find() == folder

    def test_a_config_is_a_folder(self, folder, data_directory):
        moved = folder.parent / "de-en" / "1.0.0"
        moved.parent.mkdir()
        folder.rename(moved)
        assert prepared.find("imagenet2012/de-en") == moved

    def test_the_newest_expected_version(self, folder):
        for version in ("5.0.0", "5.0.10", "5.0.9", "6.0.0"):
            shutil.copytree(folder, folder.parent / version)
        assert prepared.find("imagenet2012").name == "6.0.0"
        assert prepared.find("imagenet2012", ("5.0.9", "5.0.10", "5.0.0")).name == "5.0.10"
        assert prepared.find("imagenet2012", ("5.0.9", "4.0.0")).name == "5.0.9"

    def test_half_prepared_beside_a_whole_one(self, folder):
        (folder.parent / "incomplete.ABCDEF_5.0.0").mkdir()
        assert find() == folder

    def test_an_alternative_format(self, folder):
        edit(
            folder / "dataset_info.json",
            lambda info: info.update(fileFormat="tfrecord", alternativeFileFormats=["array_record"]),
        )
        assert len(prepared.records(find(), "train")) == TRAIN

    @pytest.mark.parametrize("package", ["tensorflow_datasets", "array_record", "importlib_resources"])
    def test_missing_package(self, folder, monkeypatch, package):
        known = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else known(name))
        message = refused(find, f"the package {package} is missing")
        assert message.endswith("install it with: pip install 'playbook-bench[data]'")

    def test_not_prepared(self, data_directory):
        message = refused(find, f"not prepared in {data_directory};", "ILSVRC2012_img_val.tar")
        assert f"by hand into {data_directory}/downloads/manual, then" in message
        assert message.endswith(
            f"pip install 'playbook-bench[prepare]' && {COMMAND.format('imagenet2012:5.1.0')}.download_and_prepare()\""
        )

    def test_not_prepared_with_a_config(self, data_directory):
        with pytest.raises(DataError, match=r"^wmt14_translate/de-en: not prepared in .*; prepare it with: ") as caught:
            prepared.find("wmt14_translate/de-en")
        assert COMMAND.format("wmt14_translate/de-en") in str(caught.value)

    def test_interrupted(self, data_directory):
        incomplete = data_directory / "imagenet2012" / "incomplete.ABCDEF_5.1.0"
        incomplete.mkdir(parents=True)
        refused(find, "half prepared", incomplete, "remove it and download", COMMAND.format("imagenet2012:5.1.0"))

    def test_other_version(self, folder):
        folder.rename(folder.parent / "4.0.0")
        refused(
            find, folder.parent, "holds version 4.0.0, expected 5.1.0 or 5.0.0;", COMMAND.format("imagenet2012:5.1.0")
        )

    @pytest.mark.parametrize("file_format", ["tfrecord", None])
    def test_other_format(self, folder, file_format):
        edit(
            folder / "dataset_info.json",
            lambda info: info.update(fileFormat=file_format) if file_format else info.pop("fileFormat"),
        )
        refused(find, f"{folder} is in file format tfrecord, expected array_record; move it away and download")

    @pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
    @pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b'{"name": ')], ids=["gone", "cut"])
    def test_half_described(self, folder, file, damage):
        damage(folder / file)
        refused(find, f"half prepared: description in {folder} cannot be read", f"remove {folder} and download")

    @pytest.mark.parametrize("content", ["[]", "{}", '{"splits": [{"shardLengths": ["1"]}]}', '{"splits": 3}'])
    def test_described_as_something_else(self, folder, content):
        (folder / "dataset_info.json").write_text(content)
        refused(find, f"half prepared: description in {folder} cannot be read")

    def test_missing_shards(self, folder):
        gone = folder / "imagenet2012-train.array_record-00001-of-00003"
        gone.unlink()
        (folder / "imagenet2012-validation.array_record-00000-of-00003").unlink()
        refused(find, f"half prepared: {gone} is missing (2 such of 6 shards); remove {folder} and download")

    @pytest.mark.parametrize("kept", [0, 100, 65_536, -65_536, -1])
    def test_cut_shard(self, folder, kept):
        cut = folder / "imagenet2012-train.array_record-00002-of-00003"
        cut.write_bytes(cut.read_bytes()[:kept])
        refused(find, f"half prepared: {cut} is cut (1 such of 6 shards)")

    def test_another_shard(self, folder):
        name = "imagenet2012-{}.array_record-00000-of-00003"
        shutil.copyfile(folder / name.format("validation"), folder / name.format("train"))
        refused(find, f"half prepared: {folder / name.format('train')} has 2 records instead of its own (1 such of 6")

    def test_no_shards(self, folder):
        edit(folder / "dataset_info.json", lambda info: info.update(splits=[]))
        refused(find, f"half prepared: {folder} has no shards")


class TestContentHash:
    def test_is_of_the_content_wherever_it_lies(self, original, folder):
        assert len(prepared.content_hash(folder)) == 64
        assert prepared.content_hash(folder) == prepared.content_hash(original)

    @pytest.mark.parametrize(
        ("file", "change"),
        [
            ("dataset_info.json", lambda info: info.update(version="5.0.0")),
            ("dataset_info.json", lambda info: info.update(configName="x")),
            ("dataset_info.json", lambda info: info["splits"][0].update(numBytes="1")),
            ("dataset_info.json", lambda info: info["splits"][0]["shardLengths"].reverse()),
            ("features.json", lambda features: features["featuresDict"]["features"].pop("file_name")),
        ],
    )
    def test_changes_with_the_description(self, folder, file, change):
        before = prepared.content_hash(folder)
        edit(folder / "dataset_info.json", lambda info: info["splits"][0]["shardLengths"].__setitem__(0, "9"))
        middle = prepared.content_hash(folder)
        edit(folder / file, change)
        assert len({before, middle, prepared.content_hash(folder)}) == 3

    def test_changes_with_the_size_of_a_shard(self, folder):
        before = prepared.content_hash(folder)
        with open(folder / "imagenet2012-train.array_record-00000-of-00003", "ab") as file:
            file.write(b"\0")
        assert prepared.content_hash(folder) != before


class TestRecords:
    def test_are_the_stored_ones(self, original):
        expected = {e["file_name"].encode(): e for _, e in synthetic_imagenet.examples(TRAIN, 0, (60, 180))}
        train = prepared.records(original, "train")
        assert len(train) == TRAIN
        for record in train:
            example = expected.pop(record["file_name"])
            assert record["label"] == example["label"]
            assert record["image"] == example["image"]
        assert not expected
        assert len(prepared.records(original, "validation")) == VALIDATION

    def test_of_a_part(self, original):
        train = prepared.records(original, "train")
        head, tail = prepared.records(original, "train[:10]"), prepared.records(original, "train[10:]")
        assert [len(head), len(tail)] == [10, TRAIN - 10]
        assert [*head, *tail] == [*train]
        assert len(prepared.records(original, "train[50%:]")) == TRAIN // 2

    def test_are_a_sequence(self, original):
        train = prepared.records(original, "train")
        assert train[-1] == train[TRAIN - 1] != train[0]
        for index in (TRAIN, -TRAIN - 1):
            with pytest.raises(IndexError):
                train[index]
        assert train[np.int64(3)] == train[3]

    def test_travel_without_open_files(self, original):
        train = prepared.records(original, "train[3:]")
        assert train[0]
        packed = pickle.dumps(train)
        assert len(packed) < 500
        assert [*pickle.loads(packed)] == [*train]

    def test_may_be_read_by_threads(self, original):
        alone = [*prepared.records(original, "train")]
        train = pickle.loads(pickle.dumps(prepared.records(original, "train")))
        order = np.random.default_rng(0).permutation(np.repeat(np.arange(TRAIN), 20))
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(train.__getitem__, order))
        assert found == [alone[i] for i in order]

    @pytest.mark.parametrize("split", ["test", "train[:x]", "train[:500]", ""])
    def test_no_such_split(self, original, split):
        refused(lambda: prepared.records(original, split), f"split {split!r}: ")

    def test_broken_record(self, folder):
        shard = folder / "imagenet2012-train.array_record-00001-of-00003"
        content = bytearray(shard.read_bytes())
        content[2000:2040] = b"\xff" * 40
        shard.write_bytes(content)
        train, broken = prepared.records(find(), "train"), 0
        for index in range(TRAIN):
            try:
                assert train[index]["image"]
            except DataError as error:
                broken += 1
                assert str(error).startswith(f"imagenet2012: record {index} of train cannot be read (")
                assert str(error).endswith(f"); remove {folder} and prepare it again")
                assert "\n" not in str(error)
        assert broken == 1

    def test_more_files_than_are_allowed(self, original):
        """A process that may open 64 files reads a data set of 1,088 shards only if it raises that limit."""
        code = (
            "import resource; from workloads.data.prepared import _allow_open_files; hard = 2000; "
            "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)); _allow_open_files(1088); "
            "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1344, hard); _allow_open_files(10); "
            "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1344, hard); _allow_open_files(9999); "
            "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_nothing_imports_tensorflow(self, folder):
        code = (
            "import sys; from workloads.data import prepared; folder = prepared.find('imagenet2012'); "
            "assert 'tensorflow_datasets' not in sys.modules; prepared.content_hash(folder); "
            "assert prepared.records(folder, 'train')[0]['image']; "
            "assert not {'tensorflow', 'jax'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
