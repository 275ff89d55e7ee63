"""Reading a TOML file that a user wrote: whatever is wrong with it is one line that names the file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from harness.records import InputError

Read = TypeVar("Read")


def read_toml(path: str | Path, what: str, interpret: Callable[[Mapping[str, Any]], Read]) -> Read:
    """Reads a TOML file.

    Args:
      path: the file.
      what: it should hold, with its article, for the error message.
      interpret: makes of the tables what they stand for; may raise `InputError`.

    Returns:
      What `interpret` makes.

    Raises:
      InputError: the file cannot be read, is not TOML in UTF-8, or cannot be interpreted; the message names the file.
    """
    label = repr(str(path))
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{label}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{label}: cannot be read ({reason}); give the path of {what} in TOML") from None
    try:
        return interpret(tomllib.loads(text))
    except InputError as error:
        raise InputError(f"{label}: {error}") from None
    except (ValueError, RecursionError) as error:  # not TOML; numbers or nesting too long for Python
        raise InputError(f"{label}: is not TOML: {error}; correct the file") from None
