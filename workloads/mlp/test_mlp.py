import jax
import numpy as np
import pytest

from workloads.contract import WorkloadContract, compile_quickly
from workloads.mlp.workload import MLP
from workloads.workload import ConfigurationError, configure


class TestMLP(WorkloadContract):
    name = "mlp"
    split_sizes = {"train": 4000, "validation": 1000}  # noqa: RUF012
    stated = {"smoke": 0.7, "laptop": 0.06}  # noqa: RUF012


def sizes(workload):
    parameters, state = jax.eval_shape(workload.initial, jax.random.key(0))
    assert state == {}
    return {name: layer["kernel"].shape for name, layer in parameters.items()}


def test_the_default_is_64_64_64_10():
    assert sizes(MLP()) == {"hidden0": (64, 64), "hidden1": (64, 64), "head": (64, 10)}


def test_layers_width_and_side():
    workload = MLP(hidden_layers=1, width=7, side=12)
    assert sizes(workload) == {"hidden0": (144, 7), "head": (7, 10)}
    assert sizes(configure(workload, {"hidden_layers": 0})) == {"head": (144, 10)}


def test_what_is_not_trained_on_can_be_held_out():
    noisy = MLP(training_examples=1000, label_noise=0.2)
    splits, more = noisy.data(3), configure(noisy, {"validate_on_rest": "true"}).data(3)
    whole = MLP().data(3)
    for field in ("image", "label"):
        np.testing.assert_array_equal(more.train[field], splits.train[field])
        np.testing.assert_array_equal(more.validation[field][:1000], splits.validation[field])
        np.testing.assert_array_equal(more.validation[field][1000:], whole.train[field][1000:])


def test_the_logits_are_those_of_dense_layers_with_relu():
    workload = MLP(width=5, side=4)
    images = workload.data(0).validation["image"][:6]
    parameters, _ = compile_quickly(workload.initial)(jax.random.key(0))
    expected = images.reshape(6, 16)
    for name in ("hidden0", "hidden1"):
        expected = np.maximum(expected @ parameters[name]["kernel"] + parameters[name]["bias"], 0)
    expected = expected @ parameters["head"]["kernel"] + parameters["head"]["bias"]
    found = workload.model.apply({"params": parameters}, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "expectation"),
    [
        ("hidden_layers", -1, "at least 0"),
        ("width", 0, "at least 1"),
        ("side", 0, "at least 1"),
        ("dataset", "cifar10", "one of mnist5k"),
    ],
)
def test_bad_values_are_refused(field, value, expectation):
    with pytest.raises(ConfigurationError, match=f"^{field}={value!r}: expected {expectation}$"):
        configure(MLP(), {field: value})
