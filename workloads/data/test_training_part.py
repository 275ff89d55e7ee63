import numpy as np
import pytest

from workloads.data.training_part import training_part
from workloads.mlp.workload import MLP
from workloads.resnet.workload import ResNet
from workloads.wide_resnet.workload import WideResNet
from workloads.workload import ConfigurationError, Splits, configure

WORKLOADS = {
    "mlp": MLP(),
    "resnet": ResNet(8, stem="small", width=8, dataset="photo_patches", side=8),
    "wide_resnet": WideResNet(10, 1, dataset="mnist5k", side=8),
}


@pytest.fixture
def splits():
    """Examples whose image is their number."""
    number = np.arange(5000)
    label = (number % 10).astype(np.int32)
    examples = {"image": number.astype(np.float32)[:, None], "label": label}
    return Splits(
        train={name: values[:4000] for name, values in examples.items()},
        validation={name: values[4000:] for name, values in examples.items()},
    )


def test_all_examples_stay_as_they_are(splits):
    part = training_part(splits, 3, 0, 0.0, 10)
    for name in ("train", "validation"):
        for field, values in getattr(splits, name).items():
            np.testing.assert_array_equal(getattr(part, name)[field], values)


@pytest.mark.parametrize(("examples", "kept"), [(0, 4000), (1000, 1000), (999, 999)])
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_a_share_of_the_labels_is_drawn_anew(splits, examples, kept, noise):
    part = training_part(splits, 3, examples, noise, 10)
    before = splits.train["label"][:kept]
    after = part.train["label"]
    np.testing.assert_array_equal(part.train["image"], splits.train["image"][:kept])
    assert after.dtype == np.int32
    changed = after[after != before]
    replaced = round(noise * kept)
    # A tenth of the drawn classes are the right ones, in the mean; 5 standard deviations.
    assert abs(len(changed) - 0.9 * replaced) < 5 * np.sqrt(0.09 * replaced)
    assert len(changed) < replaced
    counts = np.bincount(changed, minlength=10)
    assert np.all(np.abs(counts - len(changed) / 10) < 5 * np.sqrt(len(changed) / 10))


def test_validation_labels_and_the_given_ones_stay(splits):
    before = splits.train["label"].copy()
    part = training_part(splits, 3, 0, 1.0, 10)
    np.testing.assert_array_equal(part.validation["label"], splits.validation["label"])
    np.testing.assert_array_equal(splits.train["label"], before)


def test_noise_is_a_function_of_the_split_seed(splits):
    first, again, other = (training_part(splits, seed, 0, 0.5, 10).train["label"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != other) > 0.5


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_workloads_train_on_the_part(workload):
    noisy = configure(workload, {"training_examples": "1000", "label_noise": ".2"})
    whole, part = workload.data(5), noisy.data(5)
    assert len(part.train["label"]) == 1000
    np.testing.assert_array_equal(part.train["image"], whole.train["image"][:1000])
    assert 140 < np.sum(part.train["label"] != whole.train["label"][:1000]) < 200
    for field in ("image", "label"):
        np.testing.assert_array_equal(part.validation[field], whole.validation[field])


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
@pytest.mark.parametrize(
    ("field", "value", "expectation"),
    [
        ("training_examples", -1, "expected at least 0"),
        ("training_examples", 5001, "expected at most [45]000 of (mnist5k|photo_patches), or 0 for all"),
        ("label_noise", -0.1, "expected 0 to 1"),
        ("label_noise", 1.1, "expected 0 to 1"),
        ("label_noise", float("nan"), "expected 0 to 1"),
    ],
)
def test_bad_values_are_refused(workload, field, value, expectation):
    with pytest.raises(ConfigurationError, match=f"^{field}={value!r}: {expectation}$"):
        configure(workload, {field: value})


@pytest.mark.parametrize("workload", [WideResNet(), ResNet()], ids=["cifar10", "imagenet2012"])
@pytest.mark.parametrize(("field", "value"), [("training_examples", 1000), ("label_noise", 0.2)])
def test_streams_take_neither(workload, field, value):
    with pytest.raises(ConfigurationError, match=rf"^{field}={value}: expected 0.* of {workload.dataset}$"):
        configure(workload, {field: value})
