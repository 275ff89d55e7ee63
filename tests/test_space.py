import math
import pickle
import sys
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.records import InputError
from harness.search.space import SCALES, Hyperparameter, Space, space_from_dict, space_from_toml

UNIT = st.floats(0, 1)


@st.composite
def ranges(draw, widest=1e300):
    """A valid range on any scale, down to one that holds few floats."""
    scale = draw(st.sampled_from(SCALES))
    least = 1e-300 if scale == "log" else -widest
    numbers = st.floats(least, widest if scale != "reverse_log" else 1, exclude_max=True)
    low, high = sorted([draw(numbers), draw(numbers)])
    try:
        return Hyperparameter("h", low, high, scale)
    except InputError:  # equal, or too near for the scale
        assume(False)


@st.composite
def wide_ranges(draw):
    """A range as one would search it: its ends are apart, and floats near `high` still resolve 1 - x."""
    axis = draw(ranges(widest=1e6))
    assume(axis.scale != "reverse_log" or axis.high <= 0.999)
    bottom, top = axis._ends()
    assume(top - bottom > 1e-3 * max(1, abs(bottom), abs(top)))
    return axis


@given(ranges())
def test_ends_are_exact(axis):
    assert (axis.from_unit(0), axis.from_unit(1)) == (axis.low, axis.high)
    assert (axis.to_unit(axis.low), axis.to_unit(axis.high)) == (0, 1)


@given(ranges(), UNIT)
def test_values_stay_in_the_range(axis, u):
    value = axis.from_unit(u)
    assert type(value) is float
    assert axis.low <= value <= axis.high
    assert 0 <= axis.to_unit(value) <= 1


@given(wide_ranges(), UNIT)
def test_unit_to_value_and_back(axis, u):
    assert axis.to_unit(axis.from_unit(u)) == pytest.approx(u, abs=1e-9)


@given(wide_ranges(), UNIT, UNIT)
def test_increasing(axis, u, v):
    u, v = sorted([u, v])
    assert axis.from_unit(u) <= math.nextafter(axis.from_unit(v), math.inf)  # exp may be off by its last bit
    if v - u > 1e-6:
        assert axis.from_unit(u) < axis.from_unit(v)
    x, y = sorted([axis.from_unit(u), axis.from_unit(v)])
    assert axis.to_unit(x) <= axis.to_unit(y) + 1e-12


@pytest.mark.parametrize(
    ("axis", "middle"),
    [
        (Hyperparameter("h", -1, 3), 1),
        (Hyperparameter("h", 1e-5, 10, "log"), 1e-2),
        (Hyperparameter("momentum", 0.9, 0.999, "reverse_log"), 0.99),
        (Hyperparameter("momentum", 0, 0.99, "reverse_log"), 0.9),
    ],
)
def test_middle_of_each_scale(axis, middle):
    assert axis.from_unit(0.5) == pytest.approx(middle, rel=1e-12)
    assert axis.to_unit(middle) == pytest.approx(0.5, rel=1e-12)


def test_reverse_log_keeps_its_digits_near_zero():
    axis = Hyperparameter("momentum", 0, 0.99, "reverse_log")
    assert axis.from_unit(1e-20) == pytest.approx(1e-20 * math.log(100), rel=1e-12, abs=0)
    assert axis.to_unit(1e-20) == pytest.approx(1e-20 / math.log(100), rel=1e-12, abs=0)


def test_largest_float_does_not_overflow():
    most = sys.float_info.max
    for axis in (
        Hyperparameter("h", 0, most),
        Hyperparameter("h", 5e-324, most, "log"),
        Hyperparameter("h", -most, 0.5, "reverse_log"),
    ):
        for u in (5e-324, 0.5, math.nextafter(1, 0)):
            assert axis.low <= axis.from_unit(u) <= axis.high


@given(st.integers(1, 50), UNIT, UNIT)
def test_grid_axis(size, u, v):
    axis = Hyperparameter("h", values=list(range(size, 0, -1)))
    assert [axis.from_unit(axis.to_unit(value)) for value in axis.values] == list(axis.values)
    u, v = sorted([u, v])
    assert axis.values.index(axis.from_unit(u)) <= axis.values.index(axis.from_unit(v))
    assert (axis.from_unit(0), axis.from_unit(1)) == (axis.values[0], axis.values[-1])


def test_grid_axis_has_equal_parts():
    axis = Hyperparameter("h", values=["a", "b", "c", "d"])
    assert [axis.from_unit(u) for u in (0, 0.249, 0.25, 0.499, 0.5, 0.749, 0.75, 1)] == list("aabbccdd")


@pytest.mark.parametrize("u", [-0.1, 1.1, math.nan, math.inf])
def test_bad_unit_position(u):
    for axis in (Hyperparameter("h", 0, 1), Hyperparameter("h", values=[1])):
        with pytest.raises(InputError, match=r"^hyperparameter 'h': unit position .* is not a number from 0 to 1"):
            axis.from_unit(u)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, True, "0.5", None])
def test_value_off_the_axis(value):
    with pytest.raises(InputError, match=r"^hyperparameter 'h': .* is not a number from 0\.0 to 1\.0; "):
        Hyperparameter("h", 0, 1).to_unit(value)
    with pytest.raises(InputError, match=r"^hyperparameter 'h': .* is not among its values; give one of \[1, 2\]"):
        Hyperparameter("h", values=[1, 2]).to_unit(value)


def test_numpy_numbers_become_plain():
    axis = Hyperparameter("h", np.float32(0.5), np.int64(2))
    assert [type(axis.low), type(axis.high)] == [float, float]
    assert axis.to_unit(np.float32(2)) == 1
    assert [type(v) for v in Hyperparameter("h", values=np.arange(3)).values] == [int] * 3


def test_integers_beside_floats_become_floats():
    values = Hyperparameter("h", values=[0, 0.1]).values
    assert values == (0.0, 0.1)
    assert [type(v) for v in values] == [float, float]


TOML = """
# a search space
[learning_rate]
low = 1e-5
high = 10
scale = "log"

[momentum]
low = 0.9
high = 0.999
scale = "reverse_log"

[dropout]
low = 0
high = 0.5

[batch_size]
values = [64, 128, 256]

[optimizer]
values = ["sgd", "adam"]

[nesterov]
values = [true, false]
"""


@pytest.fixture
def write(tmp_path):
    def write_space(text):
        path = tmp_path / "space.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_space


def test_space_from_toml(write):
    space = space_from_toml(write(TOML))
    assert list(space) == ["learning_rate", "momentum", "dropout", "batch_size", "optimizer", "nesterov"]
    assert space["learning_rate"] == Hyperparameter("learning_rate", 1e-5, 10.0, "log")
    assert space["dropout"] == Hyperparameter("dropout", 0.0, 0.5, "linear")
    assert space["nesterov"].values == (True, False)
    assert space_from_toml(str(write(TOML))) == space


def test_space_is_plain_data():
    space = space_from_dict({"b": {"low": 0, "high": 1}, "a": {"values": [1, 2]}})
    assert (len(space), "a" in space, "c" in space) == (2, True, False)
    assert pickle.loads(pickle.dumps(space)) == space
    assert hash(space) == hash(pickle.loads(pickle.dumps(space)))
    assert Space(tuple(Hyperparameter(**axis) for axis in asdict(space)["hyperparameters"])) == space


def test_order_counts():
    one, other = Hyperparameter("a", 0, 1), Hyperparameter("b", 0, 1)
    assert Space([one, other]) != Space([other, one])


BAD_TEXT = [
    ("learning_rate = 0.1", "'learning_rate': 0.1 is not a table; write a table"),
    ("[[lr]]\nlow = 1\nhigh = 2", "'lr': [{'low': 1, 'high': 2}] is not a table"),
    ("", "search space is empty"),
    ("# nothing", "search space is empty"),
    (
        "[lr]\nlwo = 1\nhigh = 2",
        "unknown key 'lwo'; known keys: low, high, scale, values, integer, when, hyperparameter; did you mean 'low'?",
    ),
    ("[lr]\nlow = 1\nhigh = 2\nq = 3", "unknown key 'q'; known keys: low, high, scale, values"),
    ("[opt.lr]\nlow = 1\nhigh = 2", "'opt': unknown key 'lr'"),
    ("[n]\nlow = 1.5\nhigh = 3\ninteger = true", "low = 1.5 with integer = true is not an integer of at most 2^53"),
    ("[n]\nlow = 1\nhigh = 1e16\ninteger = true", "high = 1e+16 with integer = true is not an integer of at most 2^53"),
    ("[n]\nlow = 3\nhigh = 3\ninteger = true", "low = 3 is not below high = 3"),
    ("[n]\nlow = 0\nhigh = 3\ninteger = true\nscale = 'log'", "low = 0 with scale = 'log' is not above 0"),
    ("[n]\nlow = -3\nhigh = 0\ninteger = true\nscale = 'reverse_log'", "does not go with scale = 'reverse_log'"),
    ("[n]\nlow = 1\nhigh = 3\ninteger = 1", "integer = 1 is not a boolean; write integer = true"),
    ("[n]\nvalues = [1]\ninteger = true", "integer = True does not go with values"),
    ("[lr]\nlow = 1\nhigh = 2\nhyperparameter = 3", "hyperparameter = 3 is not a name"),
    ("[lr]\nlow = 1\nhigh = 2\nhyperparameter = ''", "hyperparameter = '' is not a name"),
    ("[lr]", "'lr': low is missing"),
    ("[lr]\nhigh = 2", "'lr': low is missing; expected low and high, or values; add low = NUMBER"),
    ("[lr]\nlow = 1", "'lr': high is missing"),
    ("[lr]\nlow = '1'\nhigh = 2", "low = '1' is not a finite number"),
    ("[lr]\nlow = [1]\nhigh = 2", "low = [1] is not a finite number"),
    ("[lr]\nlow = 2020-01-01\nhigh = 2", "is not a finite number"),
    ("[lr]\nlow = true\nhigh = 2", "low = True is not a finite number"),
    ("[lr]\nlow = nan\nhigh = 2", "low = nan is not a finite number"),
    ("[lr]\nlow = 1\nhigh = inf", "high = inf is not a finite number"),
    (f"[lr]\nlow = 1\nhigh = 1{'0' * 400}", "is not a finite number"),
    ("[lr]\nlow = 2\nhigh = 2", "low = 2.0 is not below high = 2.0"),
    ("[lr]\nlow = 3\nhigh = 2", "low = 3.0 is not below high = 2.0"),
    ("[lr]\nlow = 0\nhigh = 2\nscale = 'log'", "low = 0.0 with scale = 'log' is not above 0"),
    ("[lr]\nlow = -1\nhigh = 2\nscale = 'log'", "low = -1.0 with scale = 'log' is not above 0"),
    ("[m]\nlow = 0\nhigh = 1\nscale = 'reverse_log'", "high = 1.0 with scale = 'reverse_log' is not below 1"),
    ("[lr]\nlow = -1.7e308\nhigh = 1.7e308", "too near or too far apart"),
    ("[lr]\nlow = 1e300\nhigh = 1.0000000000000002e300\nscale = 'log'", "too near or too far apart"),
    ("[lr]\nlow = 1\nhigh = 2\nscale = 'Log'", "scale = 'Log' is not a scale; known scales: linear, log, reverse_log"),
    ("[lr]\nlow = 1\nhigh = 2\nscale = 'lgo'", "did you mean 'log'?"),
    ("[lr]\nlow = 1\nhigh = 2\nscale = 3", "scale = 3 is not a scale"),
    ("[lr]\nlow = 1\nvalues = [1]", "low = 1 does not go with values"),
    ("[lr]\nhigh = 1\nvalues = [1]", "high = 1 does not go with values"),
    ("[lr]\nscale = 'log'\nvalues = [1]", "scale = 'log' does not go with values"),
    ("[lr]\nvalues = 3", "values = 3 is not a list; write values = [3]"),
    ("[lr]\nvalues = 'abc'", "values = 'abc' is not a list"),
    ("[lr]\nvalues = []", "values = [] is empty"),
    ("[lr]\nvalues = [1, 2, 1]", "value 1 is in values more than once"),
    ("[lr]\nvalues = [1, 1.0]", "value 1.0 is in values more than once"),
    ("[lr]\nvalues = [1, 'a']", "value 'a' is a string, but 1 is a number"),
    ("[lr]\nvalues = [true, 2]", "value 2 is a number, but True is a boolean"),
    ("[lr]\nvalues = [1, nan]", "value nan is not a finite number"),
    (f"[lr]\nvalues = [0.5, 1{'0' * 400}]", "is not a finite number"),
    ("[lr]\nvalues = [[1]]", "value [1] is not a finite number, a string or a boolean"),
    ("['']\nlow = 0\nhigh = 1", "hyperparameter name '' is not a name"),
    ('["a\\nb"]\nlow = 1', "hyperparameter 'a\\nb': high is missing"),
    ('["a\\nb"]\nvalues = ["c\\nd", "c\\nd"]', "value 'c\\nd' is in values more than once"),
    ('"a\\nb" = 1', "1 is not a table"),
    ("[lr", "is not TOML"),
    ("[lr]\nlow = 1\nlow = 2", "is not TOML"),
    ("a = " + "[" * 10000, "is not TOML"),
    (f"[lr]\nlow = 1\nhigh = 1{'0' * 5000}", "is not TOML"),
    (b"[lr]\nlow = 1 # \xff", "byte 15 is not UTF-8; save the file as UTF-8"),
]


def one_line(caught):
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(("text", "message"), BAD_TEXT, ids=[message[:40] for _, message in BAD_TEXT])
def test_bad_toml(write, text, message):
    path = write(text)
    with pytest.raises(InputError) as caught:
        space_from_toml(path)
    line = one_line(caught)
    assert line.startswith(f"{str(path)!r}: ")
    assert message in line


OPTIMIZER = "[optimizer]\nvalues = ['nesterov', 'adam']\n"
RATE = "low = 1e-4\nhigh = 1.0\nscale = 'log'\n"
BAD_CONDITIONS = [
    ("[a]\nvalues = [1]\nwhen = 'b'", "'a': when = 'b' is not a table; write one such as when = {"),
    ("[a]\nvalues = [1]\nwhen = { a = 1 }", "'a': depends on itself"),
    (
        "[b]\nvalues = [1]\nwhen = { optimizr = 'adam' }",
        "'optimizr', which is not in the space; did you mean 'optimizer'?",
    ),
    ("[a]\nlow = 0\nhigh = 1\n[b]\nvalues = [1]\nwhen = { a = 0.5 }", "'b': when names 'a', which is a range; give"),
    (
        "[b]\nvalues = [1]\nwhen = { optimizer = 'adm' }",
        "when optimizer = 'adm' is impossible; did you mean 'adam'?; its",
    ),
    ("[b]\nvalues = [1]\nwhen = { optimizer = ['adam', 3] }", "when optimizer = 3 is impossible; its values are"),
    ("[b]\nvalues = [1]\nwhen = { optimizer = [] }", "when optimizer = [] holds for no value"),
    ("[b]\nvalues = [1]\nwhen = { optimizer = [['adam']] }", "when optimizer = ['adam'] is not a number, a string"),
    ("[a]\nvalues = [1, 2]\n[b]\nvalues = [1]\nwhen = { a = true }", "when a = True is impossible"),
    (
        "[a]\nvalues = [1]\nwhen = { c = 1 }\n[b]\nvalues = [1]\nwhen = { a = 1 }\n[c]\nvalues = [1]\nwhen = { b = 1 }",
        "'a': its conditions are circular: a -> c -> b -> a; take one of them out",
    ),
    (
        "[a]\nvalues = [1]\nwhen = { optimizer = 'adam' }\n[b]\nvalues = [1]\nwhen = { optimizer = 'nesterov', a = 1 }",
        "'b': can never apply: its conditions allow no value of 'optimizer'",
    ),
    (f"[learning_rate]\n{RATE}[rate]\n{RATE}hyperparameter = 'learning_rate'", "both set 'learning_rate'; give them"),
    (
        f"[one]\n{RATE}hyperparameter = 'learning_rate'\nwhen = {{ optimizer = ['nesterov', 'adam'] }}\n"
        f"[two]\n{RATE}hyperparameter = 'learning_rate'\nwhen = {{ optimizer = 'adam' }}",
        "'two': can apply together with 'one', and both set 'learning_rate'; give them conditions (when) that exclude",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_CONDITIONS, ids=[message[:40] for _, message in BAD_CONDITIONS])
def test_bad_conditions(write, text, message):
    with pytest.raises(InputError) as caught:
        space_from_toml(write(OPTIMIZER + text))
    assert message in one_line(caught)


def test_conditions_reach_through_conditional_parents(write):
    space = space_from_toml(
        write(
            OPTIMIZER
            + "[warm]\nvalues = [true, false]\nwhen = { optimizer = 'adam' }\n"
            + "[steps]\nlow = 1\nhigh = 9\ninteger = true\nwhen = { warm = true }\n"
        )
    )
    assert space["steps"].when == (("warm", (True,)),)
    assert space.parents == ["optimizer", "warm"]
    applying = {("adam", True): 3, ("adam", False): 2, ("nesterov", True): 1, ("nesterov", False): 1}
    for (optimizer, warm), count in applying.items():
        drawn = {"optimizer": optimizer, "warm": warm, "steps": 4}
        assert space.applicable(drawn) == dict(list(drawn.items())[:count])


def test_optimizers_have_learning_rate_ranges_of_their_own(write):
    rates = "".join(
        f"[{name}_rate]\n{RATE}hyperparameter = 'learning_rate'\nwhen = {{ optimizer = '{name}' }}\n"
        for name in ("nesterov", "adam")
    )
    space = space_from_toml(write(OPTIMIZER + rates))
    point = space.applicable({"optimizer": "adam", "nesterov_rate": 0.1, "adam_rate": 0.2})
    assert point == {"optimizer": "adam", "adam_rate": 0.2}
    assert space.values_set(point) == {"optimizer": "adam", "learning_rate": 0.2}
    assert Space(tuple(Hyperparameter(**axis) for axis in asdict(space)["hyperparameters"])) == space
    assert hash(pickle.loads(pickle.dumps(space))) == hash(space)


@st.composite
def integer_ranges(draw):
    scale = draw(st.sampled_from(["linear", "log"]))
    low = draw(st.integers(1 if scale == "log" else -1000, 1000))
    return Hyperparameter("n", low, low + draw(st.integers(1, 1000)), scale, integer=True)


@given(integer_ranges(), UNIT, UNIT)
def test_integers(axis, u, v):
    assert (axis.from_unit(0), axis.from_unit(1)) == (axis.low, axis.high)
    first, second = map(axis.from_unit, sorted([u, v]))
    assert type(first) is int
    assert axis.low <= first <= second <= axis.high
    assert axis.from_unit(axis.to_unit(first)) == first


def test_integers_have_equal_parts():
    axis = Hyperparameter("n", 2, 5, integer=True)
    assert [axis.from_unit(u) for u in (0, 0.249, 0.251, 0.499, 0.501, 0.749, 0.751, 1)] == [2, 2, 3, 3, 4, 4, 5, 5]
    with pytest.raises(InputError, match=r"2\.5 is not an integer; give one from 2 to 5"):
        axis.to_unit(2.5)


@pytest.mark.parametrize(("name", "reason"), [("absent.toml", "No such file"), (".", "directory"), ("a\0b", "null")])
def test_unreadable_file(tmp_path, name, reason):
    with pytest.raises(InputError, match=reason) as caught:
        space_from_toml(f"{tmp_path}/{name}")
    assert one_line(caught).startswith(f"{f'{tmp_path}/{name}'!r}: cannot be read (")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: space_from_dict([1]), "search space [1] is not a table"),
        (lambda: space_from_dict({3: {"low": 0, "high": 1}}), "hyperparameter name 3 is not a name"),
        (lambda: space_from_dict({}), "search space is empty"),
        (lambda: Space([Hyperparameter("a", 0, 1)] * 2), "hyperparameter 'a': is in the search space more than once"),
        (lambda: Hyperparameter("a", np.nan, 1), "hyperparameter 'a': low = nan"),
        (lambda: Hyperparameter("a", 0, 10**400), "hyperparameter 'a': high = 1"),
    ],
)
def test_bad_python(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert one_line(caught).startswith(message)
