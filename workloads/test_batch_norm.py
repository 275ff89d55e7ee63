import os
import re
import subprocess
import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workloads.batch_norm import GhostBatchNorm, batch_norm
from workloads.contract import bits, compile_quickly, dtypes
from workloads.resnet.workload import ResNet
from workloads.wide_resnet.workload import WideResNet
from workloads.workload import configure

EPSILON = 1e-3
CHANNELS = 3
DEVICES_TOLERANCE = 1e-5
"""Absolute, of outputs of about 1: sums over devices round otherwise."""


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def arbitrary_variables(channels=CHANNELS):
    random = np.random.default_rng(7)
    names = {"params": ("scale", "bias"), "batch_stats": ("mean", "var")}
    return {
        collection: {name: random.uniform(0.5, 1.5, channels).astype(np.float32) for name in members}
        for collection, members in names.items()
    }


def module(virtual_batch_size, train=True, momentum=0.75, dtype="float32"):
    return batch_norm(virtual_batch_size)(
        use_running_average=not train, momentum=momentum, epsilon=EPSILON, dtype=jnp.dtype(dtype)
    )


def trained(norm, variables, x):
    """Output and new running averages."""
    y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    return y, updates["batch_stats"]


def split(x, virtual_batch_size):
    """The virtual batches of NumPy's nearly equal parts, the larger ones first."""
    return np.array_split(x, -(-len(x) // virtual_batch_size))


@given(
    batch=st.integers(1, 40),
    virtual_batch_size=st.integers(1, 48),
    positions=st.sampled_from([(), (4,), (2, 3)]),
    momentum=st.sampled_from([0.0, 0.75, 0.99]),
    offset=st.sampled_from([0, 3]),
)
@example(batch=40, virtual_batch_size=8, positions=(2, 3), momentum=0.75, offset=3)  # divides
@example(batch=40, virtual_batch_size=39, positions=(2, 3), momentum=0.75, offset=3)  # a remainder of 1
@example(batch=7, virtual_batch_size=48, positions=(2, 3), momentum=0.75, offset=3)  # larger than the batch
@settings(derandomize=True, deadline=None, max_examples=12)
def test_definition_in_float64(batch, virtual_batch_size, positions, momentum, offset):
    """Outputs by the groups' statistics; running averages by those of the whole batch, which the merged ones equal."""
    # groups with means of their own, so that the variance between them counts
    drift = np.linspace(0, 2, batch, dtype=np.float32).reshape(batch, *(1 for _ in positions), 1)
    x = draw([batch, virtual_batch_size], batch, *positions, CHANNELS) + drift + np.float32(offset)
    variables = arbitrary_variables()
    y, state = compile_quickly(partial(trained, module(virtual_batch_size, momentum=momentum)))(variables, x)

    exact, axes = x.astype(np.float64), tuple(range(1 + len(positions)))
    normal = [
        (group - group.mean(axes)) / np.sqrt(group.var(axes) + EPSILON) for group in split(exact, virtual_batch_size)
    ]
    assert max(map(len, normal)) <= virtual_batch_size
    expected = np.concatenate(normal) * variables["params"]["scale"] + variables["params"]["bias"]
    # a variance that nearly vanishes has only the digits of the mean square left
    alone = min(group[..., 0].size for group in normal) < 4
    np.testing.assert_allclose(y, expected, rtol=1e-3 if alone else 1e-4, atol=1e-2 if alone else 1e-4)
    for name, of_the_batch in (("mean", exact.mean(axes)), ("var", exact.var(axes))):
        moved = momentum * variables["batch_stats"][name] + (1 - momentum) * of_the_batch
        np.testing.assert_allclose(state[name], moved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("virtual_batch_size", "sizes"),
    [(64, [44, 43, 43]), (65, [65, 65]), (129, [65, 65]), (130, [130]), (200, [130]), (26, [26] * 5)],
)
def test_sizes_of_virtual_batches_by_hand(virtual_batch_size, sizes):
    """A batch that is constant within each of them normalises to 0, and one step across a border does not."""
    x = np.repeat(np.arange(len(sizes), dtype=np.float32), sizes)[:, None]
    variables = GhostBatchNorm(virtual_batch_size, use_running_average=True).init(jax.random.key(0), x)
    y, state = trained(module(virtual_batch_size, momentum=0.0), variables, x)
    np.testing.assert_allclose(y, 0, atol=1e-4)
    np.testing.assert_allclose(state["var"], [x.var()], rtol=1e-5, atol=1e-6)
    if len(sizes) > 1:
        y, _ = trained(module(virtual_batch_size, momentum=0.0), variables, np.roll(x, 1))
        assert np.ptp(y) > 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("virtual_batch_size", [12, 100])
def test_one_group_is_the_batch_norm_of_flax(virtual_batch_size, dtype):
    """In value, state, gradient and the gradient's derivative; the state of bfloat16 has float32's digits."""
    x, direction, tangent = (jnp.asarray(part, dtype) for part in draw(0, 3, 12, 2, 2, CHANNELS))

    @compile_quickly
    def results(variables, x):
        def of(norm):
            def along(parameters, x):
                y, state = trained(norm, {**variables, "params": parameters}, x)
                return jnp.sum((y * direction).astype(jnp.float32)), (y, state)

            gradient, (y, state) = jax.grad(along, (0, 1), has_aux=True)(variables["params"], x)
            second = jax.jvp(lambda x: jax.grad(along, 1, has_aux=True)(variables["params"], x)[0], (x,), (tangent,))[1]
            return state, (y, gradient, second)

        return of(module(0, dtype=dtype)), of(module(virtual_batch_size, dtype=dtype))

    (state, rest), (ghost_state, ghost_rest) = results(arbitrary_variables(), x)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, ghost_state, state)
    if dtype == "bfloat16":
        close = partial(np.testing.assert_allclose, rtol=0.02, atol=0.02)
    jax.tree.map(lambda one, other: close(one.astype(jnp.float32), other.astype(jnp.float32)), ghost_rest, rest)
    assert dtypes(ghost_rest[0]) == {dtype}


def test_size_0_is_the_module_of_flax():
    assert batch_norm(0) is nn.BatchNorm


@pytest.mark.parametrize("virtual_batch_size", [1, 3])
def test_gradients_are_those_of_each_virtual_batch_alone(virtual_batch_size):
    """By input and parameters, and their derivative along all of them."""
    x, direction, tangent = draw(1, 3, 5, 2, 2, CHANNELS)
    cuts = np.cumsum([len(group) for group in split(x, virtual_batch_size)])[:-1]
    ghost, plain = module(virtual_batch_size), module(0)

    def together(variables, x):
        return trained(ghost, variables, x)[0]

    def apart(variables, x):
        return jnp.concatenate([trained(plain, variables, group)[0] for group in jnp.split(x, cuts)])

    @compile_quickly
    def results(variables, x):
        def of(normalize):
            def along(parameters, x):
                return jnp.sum(jnp.tanh(normalize({**variables, "params": parameters}, x)) * direction)

            primals, tangents = (variables["params"], x), (jax.tree.map(jnp.ones_like, variables["params"]), tangent)
            return jax.jvp(jax.grad(along, (0, 1)), primals, tangents)

        return of(together), of(apart)

    found, expected = results(arbitrary_variables(), x)
    # second derivatives of single examples are of the order of 100
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), found, expected)
    for leaf in jax.tree.leaves(found):
        assert np.linalg.norm(leaf) > 0.1


def test_in_lanes():
    """Under vmap with parameters, averages and inputs a lane, as packs of trials have it."""
    x = draw(2, 3, 10, 2, 2, CHANNELS)
    variables = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf, 3 * leaf]), arbitrary_variables())
    one = partial(trained, module(4))
    together = compile_quickly(jax.vmap(one))(variables, x)
    for lane in range(3):
        alone = compile_quickly(one)(*jax.tree.map(lambda leaf, lane=lane: leaf[lane], (variables, x)))
        found = jax.tree.map(lambda leaf, lane=lane: leaf[lane], together)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, alone)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_promotes_neither_dtype_nor_rank(dtype, train):
    """In values and gradients; statistics, parameters and state stay float32."""
    norm, variables = module(4, train, dtype=dtype), arbitrary_variables()

    def along(parameters, x):
        y, state = trained(norm, {**variables, "params": parameters}, x)
        return jnp.sum(y.astype(jnp.float32)), (y, state)

    x = jax.ShapeDtypeStruct((10, 2, 2, CHANNELS), dtype)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        (of_parameters, of_x), (y, state) = jax.eval_shape(
            jax.grad(along, (0, 1), has_aux=True), variables["params"], x
        )
    assert dtypes((of_parameters, state)) == {"float32"}
    assert dtypes((of_x, y)) == {dtype}
    assert y.shape == of_x.shape == x.shape


def test_evaluation_is_by_the_running_averages_and_leaves_them():
    variables, x = arbitrary_variables(), draw(3, 10, 2, 2, CHANNELS)
    y, state = trained(module(4, train=False), variables, x)
    expected, _ = trained(module(0, train=False), variables, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, state, variables["batch_stats"])


@pytest.mark.parametrize("train", [True, False])
def test_starts_like_the_batch_norm_of_flax(train):
    """Under the same names, with no average moved, and with the scale that the model asks for."""
    x = draw(4, 10, CHANNELS)
    zeroed = {"use_running_average": not train, "scale_init": nn.initializers.zeros}
    plain, ghost = (compile_quickly(batch_norm(size)(**zeroed).init)(jax.random.key(0), x) for size in (0, 4))
    assert jax.tree.structure(ghost) == jax.tree.structure(plain)
    assert bits(ghost) == bits(plain)
    assert not np.any(ghost["params"]["scale"])


def compare_devices():
    """Values, state and gradients on 1, 2 and 8 devices; runs in a process of 8 devices of its own."""
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    assert jax.device_count() == 8
    variables, (x, direction) = arbitrary_variables(), draw(5, 2, 16, 2, 2, CHANNELS)
    x += np.linspace(0, 2, 16, dtype=np.float32).reshape(16, 1, 1, 1)

    def shardings(devices):
        mesh = jax.make_mesh((devices,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:devices])
        return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))

    def results(parameters, x):
        found = [trained(module(size), {**variables, "params": parameters}, x) for size in (2, 3, 8, 64)]
        return sum(jnp.sum(jnp.tanh(y) * direction) for y, _ in found), found

    found = {}
    for devices in (1, 2, 8):
        whole, shared = shardings(devices)
        program = compile_quickly(jax.grad(results, (0, 1), has_aux=True), in_shardings=(whole, shared))
        found[devices] = program(variables["params"], jax.device_put(x, shared))
        assert len(found[devices][0][1].devices()) == devices
    for devices in (2, 8):
        close = partial(np.testing.assert_allclose, rtol=DEVICES_TOLERANCE, atol=DEVICES_TOLERANCE)
        jax.tree.map(close, found[devices], found[1])

    def collectives(virtual_batch_size):
        """Of the output alone; its averages always need some."""
        _, shared = shardings(8)
        program = compile_quickly(lambda x: trained(module(virtual_batch_size), variables, x)[0], in_shardings=shared)
        return re.findall(r"(all-\w+|collective-\w+)\(", program.lower(x).compile().as_text())

    assert not collectives(2)  # a device's share
    assert collectives(4)


def test_devices_agree():
    """1, 2 and 8 devices to 1e-5, where virtual batches lie within, across and askew of them."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    code = "from workloads.test_batch_norm import compare_devices; compare_devices()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


WORKLOADS = {
    "resnet": ResNet(8, stem="small", width=4, norm_on_residual=True, dataset="mnist5k", side=8, convolution="xla"),
    "wide_resnet": WideResNet(10, 1, dataset="mnist5k", side=8, convolution="xla"),
}


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_a_network_sees_each_virtual_batch_as_a_batch(workload):
    """The logits of 8 images at 4 are those of two batches of 4: every norm has the field."""
    plain, ghost = (configure(workload, {"virtual_batch_size": size}) for size in (0, 4))
    random = np.random.default_rng(6)
    shapes = jax.eval_shape(plain.initial, jax.random.key(0))
    parameters, state = jax.tree.map(lambda leaf: random.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
    images = draw(6, 8, 8, 8, 1)

    @compile_quickly
    def logits(parameters, state):
        def of(workload, images):
            variables = {"params": parameters, "batch_stats": state}
            return workload.model.apply(variables, images, train=True, mutable=["batch_stats"])[0]

        return of(ghost, images), jax.vmap(partial(of, plain))(images.reshape(2, 4, 8, 8, 1)).reshape(8, -1)

    together, halves = logits(parameters, state)
    np.testing.assert_allclose(together, halves, rtol=1e-3, atol=1e-3)
