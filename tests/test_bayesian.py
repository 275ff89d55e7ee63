import subprocess
import sys
import types

import pytest

from harness.records import InputError
from harness.search.bayesian import BayesianSearch
from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space
from tests.sampler_contract import PointsContract

RATE = Space([Hyperparameter("learning_rate", 1e-4, 10, "log"), Hyperparameter("momentum", 0.5, 0.999, "reverse_log")])


def search(space, seed, trials, objective, parallel=4):
    """The points of a whole search."""
    searcher, points = BayesianSearch(space, seed), []
    while len(points) < trials:
        asked = searcher.ask(min(parallel, trials - len(points)))
        points += asked
        searcher.tell([objective(point) for point in asked])
    return points


def smooth(point):
    """A bowl around the middle of every range."""
    return sum(len(str(v)) % 3 if isinstance(v, str | bool) else abs(float(v) - 0.5) for v in point.values())


def walled(point):
    """A bowl whose lowest place is near a wall, beyond which trials diverge; a third of the space is."""
    rate, momentum = (RATE[name].to_unit(point[name]) for name in RATE)
    return None if rate > 0.6 + 0.1 * momentum else 4 * (rate - 0.55) ** 2 + (momentum - 0.5) ** 2


class TestBayesian(PointsContract):
    trials = 40

    def draw(self, seed=0, trials=None, space=None):
        return search(space or self.space, seed, trials or self.trials, smooth)


def test_finds_more_than_random_search():
    """The median best of 40, over 9 seeds: about .001, against .013."""

    def best(points):
        return min(value for point in points if (value := walled(point)) is not None)

    bayesian = sorted(best(search(RATE, seed, 40, walled)) for seed in range(9))
    random = sorted(best(sample(RATE, "random", seed, 40)) for seed in range(9))
    assert bayesian[4] < random[4] / 3


def test_learns_where_trials_are_infeasible():
    """Of the second half of the trials about .25 are; where failed trials are forgotten, .8."""
    shares = [sum(walled(point) is None for point in search(RATE, seed, 40, walled)[20:]) / 20 for seed in range(9)]
    assert sum(shares) / 9 < 0.4


def test_all_infeasible_is_no_error():
    assert len(search(RATE, 0, 12, lambda point: None)) == 12


def test_what_was_told_decides_what_comes():
    first, other = search(RATE, 0, 40, walled), search(RATE, 0, 40, lambda point: point["learning_rate"])
    assert first[:8] == other[:8]
    assert first != other


def test_an_untold_round_is_a_mistake():
    searcher = BayesianSearch(RATE, 0)
    searcher.ask(2)
    with pytest.raises(RuntimeError, match="not told"):
        searcher.ask(2)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "optuna, which is not installed; install it with: pip install 'playbook-bench[bo]'"),
        (types.SimpleNamespace(Trial=object, __version__="4.0.0"), "optuna, which 4.0.0 is too old; install it with"),
    ],
)
def test_optuna_missing_or_old(monkeypatch, module, message):
    monkeypatch.setitem(sys.modules, "optuna", module)
    with pytest.raises(InputError) as caught:
        BayesianSearch(RATE, 0)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_optuna_and_torch_load_only_when_needed():
    code = (
        "import sys; import harness.search.bayesian as b; first = 'optuna' in sys.modules; b.import_optuna();"
        "sys.exit(first or 'torch' in sys.modules or 'jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
