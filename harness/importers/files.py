"""Reading the files of other tools, every failure one line."""

from __future__ import annotations

from pathlib import Path

from harness.records import InputError

_ARCHIVES = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def head(path: Path, size: int = 4096) -> bytes:
    """The first bytes of a file.

    Raises:
      InputError: it is no file, cannot be read, is empty or compressed.
    """
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise InputError(f"{what}; give the path of a trial table")
        with path.open("rb") as file:
            start = file.read(size)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise InputError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not start:
        raise InputError("is empty; give a table with a row per trial")
    for magic, kind in _ARCHIVES.items():
        if start.startswith(magic):
            raise InputError(f"is {kind}-compressed; unpack it first")
    return start


def text(path: Path) -> str:
    """The text of a file in UTF-8, without its byte order mark.

    Raises:
      InputError: as `head`, or it is not UTF-8.
    """
    head(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})") from None
