import numpy as np
import pytest
from matplotlib.figure import Figure

from harness.figures.rate_sweep import RateSeries, draw_rate_sweep


@pytest.mark.parametrize("error", [0.1, 0.7, 4.418840607796598])
def test_equal_errors_whose_mean_rounds_beside_them(error):
    """As of an arm none of whose seeds trains: all count with equal chances."""
    errors = [np.full(count, error) for count in range(2, 30)]
    assert {float(np.sign(np.mean(each) - error)) for each in errors} != {0.0}
    axes = Figure().add_subplot()
    rates = np.geomspace(1e-3, 1, len(errors))
    draw_rate_sweep(axes, [RateSeries("arm", rates, errors, [True] * len(errors), "C0")], "error")
    bars = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], error)
