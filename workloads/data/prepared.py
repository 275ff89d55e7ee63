"""Data sets that TFDS has prepared as array_record files, read without TensorFlow.

A data set lies in `<data directory>/<name>[/<config>]/<version>/`: `dataset_info.json` and `features.json` describe it,
and the shards hold its records. The data directory is `$TFDS_DATA_DIR`, by default `~/tensorflow_datasets`.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import json
import os
import re
import resource
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from workloads.data.pipeline import read_many
from workloads.workload import DataError

FORMAT = "array_record"

_PACKAGES = ("tensorflow_datasets", "array_record", "importlib_resources")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # of shards' names, where dataset_info.json holds none
_SPARE_FILES = 256  # open files that the rest of a process may need

# What cannot be downloaded without an account.
_ARCHIVES = {"imagenet2012": "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org"}


def find(name: str, versions: tuple[str, ...] | None = None) -> Path:
    """Finds a prepared data set and checks that it is whole.

    Args:
      name: of the data set, with its config behind a slash if it has one: `wmt14_translate/de-en`.
      versions: that are expected, any one if None; of several that are prepared the newest is taken.

    Returns:
      Its folder.

    Raises:
      DataError: the extra `data` is missing; the data set is not prepared, or only half, or in other versions, or in
        another file format.
    """
    root, mend = data_directory() / name, preparation(name, versions)
    check_packages(name)
    found = sorted((path.name for path in root.glob("*") if _VERSION.fullmatch(path.name)), key=_numbers)
    usable = [version for version in found if versions is None or version in versions]
    if usable:
        folder = root / usable[-1]
        check(name, folder, mend)
        return folder
    incomplete = sorted(root.glob("incomplete.*"))
    if incomplete:
        raise DataError(
            f"{name}: half prepared: {incomplete[0]} is being written, or was left by an interruption; wait, or remove "
            f"it and {mend}"
        )
    if found:
        raise DataError(f"{name}: {root} holds version {', '.join(found)}, expected {' or '.join(versions)}; {mend}")
    raise DataError(f"{name}: not prepared in {data_directory()}; {mend}")


def data_directory() -> Path:
    """The folder that TFDS keeps its data sets in."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def preparation(name: str, versions: tuple[str, ...] | None = None) -> str:
    """Says how a data set is prepared; `tfds build` does the same, but needs Apache Beam as well."""
    full_name = name if versions is None else f"{name}:{max(versions, key=_numbers)}"
    command = (
        "pip install 'playbook-bench[prepare]' && python -c \"import tensorflow_datasets as tfds; "
        f"tfds.builder('{full_name}', file_format='{FORMAT}').download_and_prepare()\""
    )
    if name not in _ARCHIVES:
        return f"prepare it with: {command}"
    manual = data_directory() / "downloads" / "manual"
    return f"download {_ARCHIVES[name]} by hand into {manual}, then prepare it with: {command}"


def check_packages(name: str, packages: Sequence[str] = _PACKAGES) -> None:
    """Raises DataError unless packages of the extra `data` are installed: those that read, if none are named."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise DataError(
            f"{name}: the package {missing[0]} is missing; install it with: pip install 'playbook-bench[data]'"
        )


def check(name: str, folder: Path, mend: str) -> None:
    """Checks that a folder holds a whole data set, every shard with as many records as it should.

    A shard that was cut has no records: their number stands at its end.

    Args:
      name: of the data set.
      folder: of one version of it.
      mend: how to prepare it.

    Raises:
      DataError: something is missing or cut, or in another file format.
    """
    again = f"remove {folder} and {mend}"
    try:
        info = _info(folder)
        json.loads((folder / "features.json").read_bytes())
        shards = _shards(info)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name}: half prepared: description in {folder} cannot be read ({error}); {again}") from None
    formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]
    if FORMAT not in formats:
        raise DataError(f"{name}: {folder} is in file format {formats[0]}, expected {FORMAT}; move it away and {mend}")
    with ThreadPoolExecutor(16) as pool:
        counts = pool.map(_record_count, [folder / file for file, _ in shards])
        broken = [(file, count) for (file, expected), count in zip(shards, counts, strict=True) if count != expected]
    if not shards:
        raise DataError(f"{name}: half prepared: {folder} has no shards; {again}")
    if broken:
        file, count = broken[0]
        state = "is missing" if count is None else "is cut" if count == 0 else f"has {count} records instead of its own"
        raise DataError(
            f"{name}: half prepared: {folder / file} {state} ({len(broken)} such of {len(shards)} shards); {again}"
        )


def content_hash(folder: Path) -> str:
    """Computes a cheap identity of a prepared data set.

    It does not read the records, which would take an hour of ImageNet. Two preparations with the same identity could
    in principle differ in their records; two with different records as a rule differ in their byte counts.

    Args:
      folder: from `find`.

    Returns:
      sha256 over name, config, version and features; each split's name, records of each shard and bytes of all
      records; and each shard's file name and size.
    """
    info = _info(folder)
    identity = {
        "name": [info["name"], info.get("configName", ""), info["version"]],
        "features": json.loads((folder / "features.json").read_bytes()),
        "splits": [[s["name"], _lengths(s), int(s.get("numBytes", 0))] for s in info["splits"]],
        "shards": [[file, (folder / file).stat().st_size] for file, _ in _shards(info)],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def records(folder: Path, split: str) -> Sequence[dict[str, Any]]:
    """Opens the records of a split for random access.

    Threads may read side by side. Pickling takes folder and split along, so that each process opens its own files.

    Args:
      folder: from `find`.
      split: `train`, or a part such as `train[:45000]` or `train[90%:]`.

    Returns:
      A sequence of records, feature name to value: texts as bytes, labels as int, and images encoded, as bytes. A
      record that cannot be read raises DataError.

    Raises:
      DataError: no such split, or too few records in it.
    """
    opened = _Records(folder, split)
    try:
        len(opened)
    except ValueError as error:
        raise DataError(f"{_title(folder)}: split {split!r}: {_one_line(error)}") from None
    return opened


def write(
    directory: Path,
    name: str,
    version: str,
    features: Any,
    splits: dict[str, Iterable[tuple[Any, dict[str, Any]]]],
    shards: int | None = None,
    file_format: str = FORMAT,
) -> Path:
    """Prepares a data set of our own as TFDS prepares a published one.

    Args:
      directory: data directory of TFDS.
      name: of the data set, with its config behind a slash if it has one.
      version: of it.
      features: a `tensorflow_datasets.features.FeaturesDict`; images are given encoded, as bytes.
      splits: split name to keys and records; the keys decide the order in which TFDS stores them.
      shards: of each split; by its size if None.
      file_format: of TFDS.

    Returns:
      The folder of the data set.
    """
    import tensorflow_datasets as tfds

    def info(builder: Any) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=builder, features=features)

    data_set, _, config = name.partition("/")
    members = {
        "name": data_set,
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config)] if config else [],
        "VERSION": tfds.core.Version(version),
        "_info": info,
        "_split_generators": lambda builder, manager: {split: iter(content) for split, content in splits.items()},
        "_generate_examples": None,  # which TFDS wants to be there
    }
    with tfds.core.registered.skip_registration():  # by which a name could be had only once in a process
        builder = type("Builder", (tfds.core.GeneratorBasedBuilder,), members)
    tfds.disable_progress_bar()
    prepared = builder(config=config or None, data_dir=directory, file_format=file_format)
    with contextlib.redirect_stdout(io.StringIO()):  # where TFDS speaks of downloads
        prepared.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))
    return Path(prepared.data_dir)


def chosen(records: Sequence[Any], positions: Sequence[int]) -> Sequence[Any]:
    """Gives some of the records, those at the positions, in their order, without reading them."""
    return _Chosen(records, np.asarray(positions))


@dataclasses.dataclass(frozen=True, eq=False)
class _Chosen(Sequence):
    records: Sequence[Any]
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Any:
        return self.records[self.positions[index]]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        return read_many(self.records, self.positions[indices].tolist())


@dataclasses.dataclass(frozen=True)
class _Records(Sequence):
    folder: Path
    split: str

    @cached_property
    def _source(self) -> Sequence[dict[str, Any]]:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self.folder)
        images = [name for name, kind in builder.info.features.items() if isinstance(kind, tfds.features.Image)]
        _allow_open_files(sum(split.num_shards for split in builder.info.splits.values()))
        decoders = {name: tfds.decode.SkipDecoding() for name in images}
        return builder.as_data_source(self.split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Reads many records at a time, which takes a sixth of the time of one by one."""
        try:
            return self._source.__getitems__(list(indices))
        except Exception as error:  # of whatever kind: array_record, protobuf and TFDS have theirs
            which = f"record {indices[0]}" if len(indices) == 1 else f"one of the records {indices[0]} to {indices[-1]}"
            raise DataError(
                f"{_title(self.folder)}: {which} of {self.split} cannot be read ({_one_line(error)}); remove "
                f"{self.folder} and prepare it again"
            ) from None

    def __reduce__(self) -> tuple:
        return _Records, (self.folder, self.split)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _info(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dataset_info.json").read_bytes())


def _title(folder: Path) -> str:
    info = _info(folder)
    return "/".join(part for part in (info["name"], info.get("configName")) if part)


def _lengths(split: dict[str, Any]) -> list[int]:
    """Records of each shard; JSON of protocol buffers has its long integers as strings."""
    return [int(length) for length in split.get("shardLengths", [])]


def _shards(info: dict[str, Any]) -> list[tuple[str, int]]:
    """File name and number of records of every shard."""
    shards = []
    for split in info["splits"]:
        lengths, template = _lengths(split), split.get("filepathTemplate") or _TEMPLATE
        for shard, length in enumerate(lengths):
            index, count = f"{shard:05d}", f"{len(lengths):05d}"
            name = template.format(
                DATASET=info["name"],
                SPLIT=split["name"],
                FILEFORMAT=FORMAT,
                SHARD_INDEX=index,
                NUM_SHARDS=count,
                SHARD_X_OF_Y=f"{index}-of-{count}",
            )
            shards.append((name, length))
    return shards


def _record_count(path: Path) -> int | None:
    """Counts the records of a shard without reading them, 0 where it was cut; None where there is no file."""
    from array_record.python import array_record_module

    if not path.is_file():
        return None
    reader = array_record_module.ArrayRecordReader(
        str(path), options="readahead_buffer_size:0", file_reader_buffer_size=32_768
    )
    count = reader.num_records()
    try:
        reader.close()
    except RuntimeError:  # what was wrong in opening it
        return 0
    return count


def _allow_open_files(shards: int) -> None:
    """Raises the process's own limit: each shard stays open, and ImageNet has 1,088 where 1,024 files are usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = shards + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
