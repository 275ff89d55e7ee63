import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads.classification import image_loss, image_predictions

CHANNELS = ((120.0, 110.0, 100.0), (60.0, 50.0, 70.0))


class Model(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        x = nn.BatchNorm(use_running_average=not train)(images)
        return nn.Dense(5)(x.reshape(x.shape[0], -1))


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (6, 4, 4, 3), np.uint8)
    return {"image": image, "label": np.arange(6, dtype=np.int32) % 5, "weight": np.ones(6, np.float32)}


@pytest.fixture
def standardised(batch):
    mean, deviation = np.array(CHANNELS, np.float32)
    return {**batch, "image": (batch["image"].astype(np.float32) - mean) / deviation}


@pytest.fixture
def variables(standardised):
    variables = Model().init(jax.random.key(0), standardised["image"], train=False)
    return variables["params"], variables["batch_stats"]


@pytest.mark.parametrize("train", [True, False])
def test_bytes_are_standardised_by_channel(variables, batch, standardised, train):
    found, expected = (
        jax.value_and_grad(lambda p, b=b, c=c: image_loss(Model(), p, variables[1], b, train, 0.1, c), has_aux=True)(
            variables[0]
        )
        for b, c in ((batch, CHANNELS), (standardised, None))
    )
    assert float(found[0][0]) != pytest.approx(np.log(5), abs=0.01)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), found, expected)


def test_predictions_of_bytes(variables, batch, standardised):
    found = image_predictions(Model(), *variables, batch, CHANNELS)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, image_predictions(Model(), *variables, standardised))
    assert len(np.unique(found)) > 1


def test_floats_are_taken_as_they_are(variables, standardised):
    with_channels = image_loss(Model(), *variables, standardised, True, 0.0, CHANNELS)
    jax.tree.map(np.testing.assert_array_equal, with_channels, image_loss(Model(), *variables, standardised, True))


@pytest.mark.parametrize("train", [True, False])
def test_bytes_promote_nothing(variables, batch, train):
    def loss(parameters, state, batch):
        return image_loss(Model(), parameters, state, batch, train, channels=CHANNELS)

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda *a: image_predictions(Model(), *a, CHANNELS), *variables, batch)
        value, _ = jax.eval_shape(loss, *variables, batch)
    assert value.dtype == jnp.float32
