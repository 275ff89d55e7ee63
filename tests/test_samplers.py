import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy.stats import qmc

from harness.records import InputError
from harness.search.samplers import MAX_SEED, MAX_TRIALS, SAMPLERS, sample
from harness.search.space import Hyperparameter, Space
from tests.sampler_contract import MIXED, SamplerContract

UNIT = Space([Hyperparameter(name, 0, 1) for name in "abcd"])
GRID = Space(
    [
        Hyperparameter("optimizer", values=["sgd", "adam"]),
        Hyperparameter("batch_size", values=[64, 128, 256]),
        Hyperparameter("weight_decay", values=[i / 10 for i in range(10)]),
        Hyperparameter("nesterov", values=[True, False]),
    ]
)

# 5 rates x (1 + 5 warmup lengths) of adam, and 90 rates of sgd: 120 points.
CONDITIONAL_GRID = Space(
    [
        Hyperparameter("adam_rate", values=[1, 2, 3, 4, 5], when={"optimizer": "adam"}, hyperparameter="learning_rate"),
        Hyperparameter("optimizer", values=["sgd", "adam"]),
        Hyperparameter("sgd_rate", values=np.arange(90), when={"optimizer": "sgd"}, hyperparameter="learning_rate"),
        Hyperparameter("warm", values=[True, False], when={"optimizer": "adam"}),
        Hyperparameter("warmup_steps", values=np.arange(5), when={"warm": True}),
    ]
)


def discrepancy(sampler, seed):
    points = sample(UNIT, sampler, seed, 100)
    return qmc.discrepancy(np.array([list(point.values()) for point in points]))


class TestHalton(SamplerContract):
    sampler = "halton"

    def test_fills_the_space_evenly(self):
        assert max(discrepancy("halton", seed) for seed in range(10)) < 0.002


class TestSobol(SamplerContract):
    sampler = "sobol"

    def test_fills_the_space_evenly(self):
        assert max(discrepancy("sobol", seed) for seed in range(10)) < 0.002

    def test_numbers_of_points_off_a_power_of_two_do_not_warn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for start in (0, 1, 2, 7):
                assert len(sample(UNIT, "sobol", 0, 3, start)) == 3

    def test_too_many_dimensions(self):
        space = Space([Hyperparameter(f"h{i}", 0, 1) for i in range(qmc.Sobol.MAXDIM + 1)])
        with pytest.raises(InputError, match=r"^search space of 21202 hyperparameters: .* at most 21201; use 'halton'"):
            sample(space, "sobol", 0, 1)

    def test_the_furthest_point_is_in_reach(self):
        assert sample(UNIT, "sobol", 0, 1, MAX_TRIALS - 1) != sample(UNIT, "sobol", 0, 1)


class TestRandom(SamplerContract):
    sampler = "random"

    def test_is_less_even_than_quasi_random_search(self):
        assert min(discrepancy("random", seed) for seed in range(10)) > 0.005


class TestGrid(SamplerContract):
    sampler = "grid"
    space = GRID
    conditional = CONDITIONAL_GRID
    seeded = False

    def test_is_the_product_with_the_first_hyperparameter_slowest(self):
        space = Space([Hyperparameter("a", values=[3, 1]), Hyperparameter("b", values=["x", "y", "z"])])
        expected = [(3, "x"), (3, "y"), (3, "z"), (1, "x"), (1, "y"), (1, "z")]
        assert [(p["a"], p["b"]) for p in sample(space, "grid", 0, 6)] == expected

    @pytest.mark.parametrize(("trials", "start"), [(121, 0), (1, 120), (60, 61)])
    def test_more_trials_than_points(self, trials, start):
        with pytest.raises(InputError, match=f"^trials = {trials + start} is more than the grid's 120 points"):
            sample(GRID, "grid", 0, trials, start)

    def test_conditions_leave_no_point_twice(self):
        points = sample(CONDITIONAL_GRID, "grid", 0, 120)
        assert len({tuple(point.items()) for point in points}) == 120
        with pytest.raises(InputError, match=r"^trials = 121 is more than the grid's 120 points"):
            sample(CONDITIONAL_GRID, "grid", 0, 121)

    def test_range_needs_values(self):
        with pytest.raises(InputError, match=r"^hyperparameter 'learning_rate': sampler 'grid' needs values"):
            sample(MIXED, "grid", 0, 1)


def test_every_sampler_keeps_the_contract():
    assert sorted(c.sampler for c in SamplerContract.__subclasses__()) == sorted(SAMPLERS)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": 0}, "trials = 0 is out of range; give an integer from 1 to"),
        ({"trials": -5}, "trials = -5 is out of range"),
        ({"trials": MAX_TRIALS + 1}, f"trials = {MAX_TRIALS + 1} is out of range"),
        ({"trials": 1.5}, "trials = 1.5 is not an integer; give one"),
        ({"trials": True}, "trials = True is not an integer"),
        ({"trials": "8"}, "trials = '8' is not an integer"),
        ({"start": -1}, "start = -1 is out of range"),
        ({"start": MAX_TRIALS}, f"start = {MAX_TRIALS} is out of range"),
        ({"seed": -1}, "seed = -1 is out of range"),
        ({"seed": MAX_SEED + 1}, f"seed = {MAX_SEED + 1} is out of range"),
        ({"seed": None}, "seed = None is not an integer"),
    ],
)
def test_bad_numbers(sampler, arguments, message):
    with pytest.raises(InputError) as caught:
        sample(GRID, **{"sampler": sampler, "seed": 0, "trials": 1} | arguments)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


def test_numpy_integers_are_integers():
    assert sample(UNIT, "random", np.uint32(3), np.int64(2)) == sample(UNIT, "random", 3, 2)


@pytest.mark.parametrize(("name", "hint"), [("Halton", "did you mean 'halton'"), ("tpe", "known samplers: halton, ")])
def test_unknown_sampler(name, hint):
    with pytest.raises(InputError, match=f"^sampler '{name}' is unknown; known samplers: .*") as caught:
        sample(UNIT, name, 0, 1)
    assert hint in str(caught.value)


def test_scipy_loads_only_with_a_sampler_that_needs_it():
    code = (
        "import sys; from harness.search.samplers import sample; from harness.search.space import space_from_dict;"
        "sample(space_from_dict({'a': {'low': 0, 'high': 1}}), 'random', 0, 1);"
        "sys.exit(any(m in sys.modules for m in ('scipy', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
