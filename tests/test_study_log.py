import csv
import threading

import pytest

from harness.records import InputError
from harness.report.study_log import COLUMNS, FILE, check_log, log_study


def row(name, **changes):
    return {**dict.fromkeys(COLUMNS, ""), "name": name, **changes}


def rows(folder):
    with (folder / FILE).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_study_and_a_new_one_for_the_same(tmp_path):
    for name, trials in (("one", "4"), ("two", "5"), ("one", "6")):
        log_study(tmp_path, row(name, trials=trials))
    assert [(found["name"], found["trials"]) for found in rows(tmp_path)] == [("one", "6"), ("two", "5")]
    assert {path.name for path in tmp_path.iterdir()} == {FILE}
    check_log(tmp_path)


@pytest.mark.parametrize("text", ['a "b", c', "two\nlines", "two\r\nlines", "é ü 漢", " spaces ", "a;b\tc", ""])
def test_any_text_comes_back(tmp_path, text):
    log_study(tmp_path, row("one", notes=text))
    log_study(tmp_path, row("two", notes=text))
    assert [found["notes"] for found in rows(tmp_path)] == [text, text]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_is_a_formula(tmp_path, text):
    log_study(tmp_path, row("one", notes=text))
    log_study(tmp_path, row("two"))  # reads and writes the first again
    assert rows(tmp_path)[0]["notes"] == f"'{text}"


def test_studies_that_end_together_keep_each_other(tmp_path):
    threads = [threading.Thread(target=log_study, args=(tmp_path, row(f"study{i}"))) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {found["name"] for found in rows(tmp_path)} == {f"study{i}" for i in range(20)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "has other columns than name, configuration"),
        (",".join(COLUMNS).encode() + b"\nx,y\n", "has other columns"),
        (b"\xff\xfe", "is no table of studies"),
    ],
)
def test_other_files_are_left_alone(tmp_path, content, message):
    (tmp_path / FILE).write_bytes(content)
    for attempt in (lambda: check_log(tmp_path), lambda: log_study(tmp_path, row("one"))):
        with pytest.raises(InputError, match=message) as caught:
            attempt()
        assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / FILE).read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {FILE}
