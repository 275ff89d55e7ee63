"""What every sampler keeps: its test class inherits `SamplerContract` and names the sampler.

`PointsContract` is the part that holds of Bayesian search too, whose points depend on what trials gave.
"""

import dataclasses
import json
from itertools import chain, pairwise

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space

MIXED = Space(
    [
        Hyperparameter("learning_rate", 1e-5, 10, "log"),
        Hyperparameter("momentum", 0.9, 0.999, "reverse_log"),
        Hyperparameter("label_smoothing", 0, 0.3),
        Hyperparameter("warmup_steps", 0, 99, integer=True),
        Hyperparameter("optimizer", values=["sgd", "adam", "nadam"]),
    ]
)
CONDITIONAL = Space(
    [
        Hyperparameter("adam_rate", 1e-4, 1e-1, "log", when={"optimizer": "adam"}, hyperparameter="learning_rate"),
        Hyperparameter("optimizer", values=["sgd", "adam"]),
        Hyperparameter("sgd_rate", 1e-2, 10, "log", when={"optimizer": ["sgd"]}, hyperparameter="learning_rate"),
        Hyperparameter("warm", values=[True, False], when={"optimizer": "adam"}),
        Hyperparameter("warmup_steps", 1, 100, "log", integer=True, when={"warm": True}),
    ]
)


class PointsContract:
    space = MIXED
    conditional = CONDITIONAL
    trials = 120
    seeded = True  # whether another seed gives other points

    def draw(self, seed=0, trials=None, space=None):
        raise NotImplementedError

    def test_gives_as_many_points_as_asked(self):
        assert [len(self.draw(trials=n)) for n in (1, 2, 3, 64, self.trials)] == [1, 2, 3, 64, self.trials]

    def test_points_lie_within_the_space(self):
        for point in self.draw():
            assert list(point) == list(self.space)
            for name, value in point.items():
                self.space[name].to_unit(value)  # raises outside

    def test_same_seed_gives_same_points(self):
        assert self.draw(seed=3) == self.draw(seed=3)

    def test_other_seed_gives_other_points(self):
        assert (self.draw(seed=0) != self.draw(seed=1)) == self.seeded

    def test_global_random_state_plays_no_part(self):
        np.random.seed(0)
        before = np.random.get_state()[1].copy()
        points = self.draw()
        assert (np.random.get_state()[1] == before).all()
        np.random.seed(1)
        assert self.draw() == points

    def test_points_hold_what_applies(self):
        points = self.draw(space=self.conditional)
        for point in points:
            wanted = ["adam_rate", "optimizer", "warm"] if point["optimizer"] == "adam" else ["optimizer", "sgd_rate"]
            assert [name for name in point if name != "warmup_steps"] == wanted
            assert ("warmup_steps" in point) == (point.get("warm") is True)
            for name, value in point.items():
                self.conditional[name].to_unit(value)
        assert {point["optimizer"] for point in points} == {"sgd", "adam"}
        assert any("warmup_steps" in point for point in points)

    def test_fewer_points_are_the_first(self):
        points = self.draw()
        assert all(self.draw(trials=n) == points[:n] for n in (1, 5, 17))

    def test_values_are_plain_and_ready_for_json(self):
        points = self.draw()
        assert {type(value) for point in points for value in point.values()} <= {float, int, str, bool}
        assert json.loads(json.dumps(points, allow_nan=False)) == points


class SamplerContract(PointsContract):
    sampler: str

    def draw(self, seed=0, trials=None, start=0, space=None):
        return sample(space or self.space, self.sampler, seed, trials or self.trials, start)

    # The inherited test runs once per subclass, which this check takes for a mistake.
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_more_points_extend_the_sequence(self, data):
        seed = data.draw(st.integers(0, 2**63 - 1), "seed")
        total = data.draw(st.integers(1, self.trials), "total")
        cuts = sorted(data.draw(st.sets(st.integers(1, total), max_size=5), "cuts") | {0, total})
        parts = (self.draw(seed, end - begin, begin) for begin, end in pairwise(cuts))
        assert list(chain.from_iterable(parts)) == self.draw(seed, total)

    def test_marginals_are_uniform_in_the_unit_interval(self):
        points = self.draw()
        steps = np.arange(self.trials + 1) / self.trials
        for name, axis in self.space.items():
            unit = np.sort([axis.to_unit(point[name]) for point in points])
            distance = max(np.max(steps[1:] - unit), np.max(unit - steps[:-1]))
            # Kolmogorov's 1.63 / sqrt(n) is the .99 quantile; the k middles of a grid axis are off by 1 / (2k) besides.
            within = 0 if axis.values is None else 0.5 / len(axis.values)
            assert distance < 2 / np.sqrt(self.trials) + within, name

    def test_a_condition_changes_no_other_value(self):
        plain = Space([dataclasses.replace(axis, when=(), hyperparameter=None) for axis in self.conditional.values()])
        if self.sampler != "grid":
            whole = self.draw(space=plain)
            assert self.draw(space=self.conditional) == [self.conditional.applicable(point) for point in whole]
