import csv
import re
from functools import partial
from importlib.resources import files

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads.contract import WorkloadContract, compile_quickly, dtypes, trace_loss_and_gradient, weighted
from workloads.convolution import convolve_by_matrix_product
from workloads.data import cifar, synthetic_cifar
from workloads.wide_resnet.model import WideResNet as Model
from workloads.wide_resnet.workload import WideResNet
from workloads.workload import ConfigurationError, DataError, configure, workload_scale

WEIGHT_DECAY = 1e-4


class TestWideResNet(WorkloadContract):
    name = "wide_resnet"
    split_sizes = {"train": 4000, "validation": 1000}  # noqa: RUF012
    stated = {"smoke": 0.9, "laptop": 0.12}  # noqa: RUF012


def published():
    text = files("baselines").joinpath("published/models.csv").read_text()
    return [row for row in csv.DictReader(text.splitlines()) if row["model"].startswith("wrn_")]


def build(depth=28, width=10, group_strides=(1, 2, 2), head="global_pool", classes=10):
    return Model(depth, width, group_strides, head, classes, 0.99, 0, compute_dtype="float32", convolution="xla")


def parameter_count(model, channels=3):
    images = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def arbitrary_variables(model, shape):
    """Variables of the right shapes that need no compilation, none of them 0 or 1 throughout."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), np.zeros(shape, np.float32))
    return jax.tree.map(lambda leaf: random.uniform(0.1, 1, leaf.shape).astype(np.float32) - 0.2, shapes["params"]), (
        jax.tree.map(lambda leaf: random.uniform(1, 2, leaf.shape).astype(np.float32), shapes["batch_stats"])
    )


def logits_without_bias(strides, heads):
    """The logits of a small network for each head, all with the same parameters."""
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    models = [build(10, 1, strides, head) for head in heads]
    parameters, state = arbitrary_variables(models[0], images.shape)
    variables = {"params": parameters, "batch_stats": state}
    logits = compile_quickly(lambda v, x: [model.apply(v, x, train=False) for model in models])(variables, images)
    return [np.asarray(each) - parameters["head"]["bias"] for each in logits]


@pytest.mark.parametrize("row", published(), ids=lambda row: row["model"])
def test_published_parameter_counts(row):
    depth, width, classes, bug = re.fullmatch(r"wrn_(\d+)_(\d+)_cifar(\d+)(_stride_bug)?", row["model"]).groups()
    strides, head = ((1, 2, 1), "flatten") if bug else ((1, 2, 2), "global_pool")
    assert parameter_count(build(int(depth), int(width), strides, head, int(classes))) == int(row["parameters"])


def test_the_published_rows_are_the_known_ones():
    counts = {row["model"]: int(row["parameters"]) for row in published()}
    assert counts["wrn_28_10_cifar10"] == 36_479_194
    assert counts["wrn_28_10_cifar10_stride_bug"] == 36_991_194
    assert len(counts) == 5


@pytest.mark.parametrize("head", ["flatten", "flatten_rescaled"])
def test_with_standard_strides_flattening_adds_no_parameters(head):
    assert parameter_count(build(head=head)) == parameter_count(build(head="global_pool")) == 36_479_194


def test_with_standard_strides_the_flatten_heads_are_global_pooling():
    """The pool covers the whole map: one position is left."""
    heads = ["global_pool", "flatten", "flatten_rescaled"]
    pooled, flat, rescaled = logits_without_bias((1, 2, 2), heads)
    assert np.ptp(pooled) > 1
    np.testing.assert_allclose(flat, pooled, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rescaled, pooled, rtol=1e-4, atol=1e-4)


def test_the_rescaled_head_divides_by_the_root_of_the_positions():
    """Images of 8x8 leave a map of 4x4, on which a pool of 2x2 has 9 positions."""
    flat, rescaled = logits_without_bias((1, 2, 1), ["flatten", "flatten_rescaled"])
    assert np.ptp(flat) > 1
    np.testing.assert_allclose(rescaled, flat / 3, rtol=1e-4, atol=1e-4)


def test_initial_objective_of_28_10():
    """An L2 term of half the weight decay times the kernels' output channels, each of squared norm 1: .505.

    Channels: 16 of the stem, 9 kernels of 160, 320 and 640 each, 10 of the head; together 10,106. With log(10) of the
    loss the objective starts at about 2.8.
    """
    from harness.training.programs import half_squared_kernels

    workload = WideResNet(28, 10, head="global_pool")
    parameters, _ = compile_quickly(workload.initial)(jax.random.key(0))
    kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(parameters) if path[-1].key == "kernel"]
    assert sum(kernel.shape[-1] for kernel in kernels) == 10_106
    assert WEIGHT_DECAY * float(half_squared_kernels(parameters)) == pytest.approx(WEIGHT_DECAY * 10_106 / 2, rel=0.01)
    assert sum(kernel.size for kernel in kernels) == 36_479_194 - 2 * 8976 - 10  # without scales, shifts and a bias


def test_accelerator_scale_has_the_published_architecture():
    workload = workload_scale("wide_resnet", "accelerator").workload
    parameters, state = jax.eval_shape(workload.initial, jax.random.key(0))
    # one channel instead of three in the stem
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters)) == 36_479_194 - 2 * 9 * 16
    batch = weighted(workload.data(0).train, slice(4))
    assert batch["image"].shape == (4, 32, 32, 1)

    def loss(parameters, state, batch, key):
        return workload.loss(parameters, state, batch, True, key)

    value, (metrics, new_state) = jax.eval_shape(loss, parameters, state, batch, jax.random.key(0))
    assert value.shape == metrics["loss"].shape == metrics["error"].shape == ()
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


@pytest.mark.parametrize(("dataset", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_paper_scale_names_a_mend_for_its_missing_data(tmp_path, monkeypatch, dataset, classes):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    workload = configure(workload_scale("wide_resnet", "paper").workload, {"dataset": dataset})
    assert workload.classes == classes
    for read in (workload.data_hashes, lambda: workload.data(0)):
        with pytest.raises(DataError, match=rf"^{dataset}: not prepared in .*{dataset}:3\.0\.2"):
            read()


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_paper_scale_at_full_shapes(tmp_path, monkeypatch, dataset):
    """Traced alone, on images of the road; 200 epochs of 45,000 images."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    synthetic_cifar.prepare(tmp_path, dataset, 40, 4)
    scale = workload_scale("wide_resnet", "paper")
    workload = configure(scale.workload, {"dataset": dataset})
    stream = workload.data(0).train
    example = stream.prepare(stream.records[0], np.random.default_rng(0))
    shapes = {name: jax.ShapeDtypeStruct((128, *each.shape), each.dtype) for name, each in example.items()}
    assert shapes["image"] == jax.ShapeDtypeStruct((128, 32, 32, 3), np.uint8)
    batch = {**shapes, "weight": jax.ShapeDtypeStruct((128,), np.float32)}
    parameters, state = jax.eval_shape(workload.initial, jax.random.key(0))
    assert parameters["head"]["kernel"].shape == (640, workload.classes)
    trace_loss_and_gradient(workload, True, parameters, state, batch)
    assert jax.eval_shape(workload.predictions, parameters, state, batch).shape == (128,)
    assert scale.steps * scale.batch_size == pytest.approx(200 * 45_000, abs=128)
    assert set(workload.data_hashes()) == {dataset}
    assert workload._channels == (cifar.MEAN[dataset], cifar.DEVIATION[dataset])


def test_running_averages_move_by_the_momentum_in_training_alone():
    """Of the first norm, which sees the stem's output."""
    workload = WideResNet(10, 1, batch_norm_momentum=0.75, dataset="mnist5k", side=8)
    images = workload.data(0).train["image"][:8]
    parameters, state = arbitrary_variables(workload.model, images.shape)
    batch = {"image": images, "label": np.zeros(8, np.int32), "weight": np.ones(8, np.float32)}

    @compile_quickly
    def states(parameters, state, batch):
        return [workload.loss(parameters, state, batch, train, None)[1][1] for train in (True, False)]

    trained, evaluated = states(parameters, state, batch)
    jax.tree.map(np.testing.assert_array_equal, evaluated, state)
    stem = convolve_by_matrix_product(images, parameters["stem"]["kernel"], 1)
    before, after = (s["group0_block0"]["norm0"] for s in (state, trained))
    for name, of_the_batch in (("mean", np.mean(stem, (0, 1, 2))), ("var", np.var(stem, (0, 1, 2)))):
        expected = 0.75 * before[name] + 0.25 * of_the_batch
        np.testing.assert_allclose(after[name], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("head", ["flatten_rescaled", "global_pool"])
def test_bfloat16_keeps_what_is_kept_in_float32(head):
    workload = WideResNet(10, 1, head=head, compute_dtype="bfloat16", dataset="mnist5k", side=8, convolution="xla")
    parameters, state = jax.eval_shape(workload.initial, jax.random.key(0))
    batch = weighted(workload.data(0).train, slice(4))

    def loss(parameters, state, batch):
        return workload.loss(parameters, state, batch, True, None)

    traced = jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(parameters, state, batch)
    assert {str(value.dtype) for value in traced.out_avals} == {"float32"}
    assert dtypes((parameters, state)) == {"float32"}
    convolutions = [e for e in traced.eqns if e.primitive.name == "conv_general_dilated"]
    assert {str(each.invars[0].aval.dtype) for each in convolutions} == {"bfloat16"}


def test_bfloat16_is_close_to_float32():
    exact = WideResNet(10, 1, batch_norm_momentum=0.5, dataset="mnist5k", side=8, convolution="xla")
    rough = configure(exact, {"compute_dtype": "bfloat16"})
    batch = weighted(exact.data(0).train, slice(8))
    parameters, state = arbitrary_variables(exact.model, batch["image"].shape)

    @compile_quickly
    def both(parameters, state, batch):
        return [workload.loss(parameters, state, batch, True, None) for workload in (exact, rough)]

    (loss, (_, new_state)), (rough_loss, (_, rough_state)) = both(parameters, state, batch)
    assert rough_loss != loss
    assert rough_loss == pytest.approx(float(loss), rel=0.05)
    for one, other in zip(jax.tree.leaves(rough_state), jax.tree.leaves(new_state), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.05, atol=0.05)


def test_global_pooling_promotes_no_dtype():
    """All of the loss but Flax's `avg_pool`, which does."""
    workload = WideResNet(10, 1, head="global_pool", dataset="mnist5k", side=8)
    batch = weighted(workload.data(0).train, slice(4))
    parameters, state = jax.eval_shape(workload.initial, jax.random.key(0))
    for train in (True, False):
        with jax.numpy_dtype_promotion("strict"):
            trace_loss_and_gradient(workload, train, parameters, state, batch)


def test_strings_are_read_as_the_fields_types():
    workload = configure(WideResNet(), {"depth": "16", "group_strides": "1,2,1", "batch_norm_momentum": ".9"})
    assert workload == WideResNet(depth=16, group_strides=(1, 2, 1), batch_norm_momentum=0.9)
    assert configure(WideResNet(), {"group_strides": "(1, 2, 1)"}).group_strides == (1, 2, 1)


@pytest.mark.parametrize(
    ("field", "value", "expectation"),
    [
        ("depth", 11, "6n + 4"),
        ("depth", 4, "6n + 4"),
        ("depth", "abc", "expected int"),
        ("depth", "16.5", "expected int"),
        ("width", 0, "at least 1"),
        ("width", "-3", "at least 1"),
        ("side", 3, "at least 4"),
        ("side", 28, "32 of cifar10"),
        ("head", "x", "flatten, flatten_rescaled, global_pool"),
        ("batch_norm_momentum", 1.0, "below 1"),
        ("batch_norm_momentum", "nan", "below 1"),
        ("batch_norm_momentum", -0.1, "at least 0"),
        ("virtual_batch_size", -1, "at least 0"),
        ("virtual_batch_size", "1.5", "expected int"),
        ("group_strides", (2, 2, 2), "head='global_pool'"),
        ("group_strides", "2,2,2", "head='global_pool'"),
        ("group_strides", "1,2", "numbers like 1,2,1"),
        ("group_strides", "1,2,x", "numbers like 1,2,1"),
        ("group_strides", (1, 2), "three numbers"),
        ("group_strides", (0, 1, 1), "at least 1"),
        ("compute_dtype", "float16", "float32, bfloat16"),
        ("dataset", "imagenet", "mnist5k, cifar10, cifar100"),
        ("convolution", "fft", "xla, matrix_product, by_backend"),
    ],
)
def test_bad_values_are_refused(field, value, expectation):
    with pytest.raises(ConfigurationError) as caught:
        configure(WideResNet(), {field: value})
    message = str(caught.value)
    found = float(value) if field == "batch_norm_momentum" else -3 if value == "-3" else value
    found = (2, 2, 2) if value == "2,2,2" else found
    assert message.startswith(f"{field}={found!r}: ")
    assert expectation in message
    assert len(message.splitlines()) == 1


def test_the_smallest_map_of_the_flatten_head_is_accepted():
    assert WideResNet(group_strides=(2, 2, 1)).head == "flatten"
    assert WideResNet(group_strides=(2, 2, 2), head="global_pool").head == "global_pool"
