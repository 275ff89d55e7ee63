import dataclasses
from typing import ClassVar

import pytest

from workloads.workload import ConfigurationError, configure


@dataclasses.dataclass(frozen=True)
class Stub:
    name: ClassVar[str] = "stub"
    flag: bool = False


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False), (True, True), (False, False)])
def test_booleans_are_read(value, expected):
    assert configure(Stub(flag=not expected), {"flag": value}).flag is expected


@pytest.mark.parametrize("value", ["", "1", "yes", "True", "falsee"])
def test_other_words_are_no_booleans(value):
    with pytest.raises(ConfigurationError, match=f"^flag='{value}': expected one of true, false$"):
        configure(Stub(), {"flag": value})
