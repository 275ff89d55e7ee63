import csv
import math
from functools import partial
from importlib.resources import files

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads.contract import WorkloadContract, compile_quickly, dtypes, trace_loss_and_gradient
from workloads.convolution import convolve_by_matrix_product
from workloads.data import photo_patches_jpeg, prepared, synthetic_imagenet
from workloads.resnet.model import _Block, _PreActivationBlock
from workloads.resnet.workload import DATA_SETS, ResNet
from workloads.workload import ConfigurationError, DataError, configure, workload_scale

BLOCKS = {"v1.5": _Block, "v2": _PreActivationBlock}
TINY = ResNet(8, stem="small", width=4, dataset="mnist5k", side=8, convolution="xla")


class TestResNet(WorkloadContract):
    name = "resnet"
    split_sizes = {"train": 5000, "validation": 1000}  # noqa: RUF012
    stated = {"smoke": 0.9, "laptop": 0.17}  # noqa: RUF012

    def test_the_last_scale_of_every_block_starts_at_zero(self, first_step):
        parameters, _, _ = first_step
        for name, block in parameters.items():
            if name.startswith("group"):
                assert not np.any(block["norm1"]["scale"])
                assert np.all(block["norm0"]["scale"] == 1)
        assert np.all(parameters["group1_block0"]["shortcut_norm"]["scale"] == 1)


def parameter_count(workload):
    parameters, _ = jax.eval_shape(workload.initial, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def arbitrary(shapes):
    """Variables of these shapes that need no compilation, none of them 0 or 1 throughout, the variances positive."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.uniform(0.1, 1.1, leaf.shape).astype(np.float32), shapes)


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def batch_of(workload, size):
    image = normal(size, workload.side, workload.side, DATA_SETS[workload.dataset][1])
    return {"image": image, "label": np.arange(size, dtype=np.int32), "weight": np.ones(size, np.float32)}


def block_of(version, stride=1, bottleneck=False, norm_on_residual=False, zero=True, channels=4, train=False):
    norm = partial(nn.BatchNorm, use_running_average=not train, epsilon=1e-5)
    return BLOCKS[version](channels, stride, bottleneck, norm_on_residual, zero, norm, convolution="xla")


def intermediate_shapes(workload, batch_size=1):
    """Shape and dtype of what every layer puts out, by its path."""
    parameters, state = jax.eval_shape(workload.initial, jax.random.key(0))
    images = jax.ShapeDtypeStruct(
        (batch_size, workload.side, workload.side, DATA_SETS[workload.dataset][1]), jnp.float32
    )
    forward = partial(workload.model.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    _, found = jax.eval_shape(forward, {"params": parameters, "batch_stats": state}, images)
    leaves = jax.tree_util.tree_leaves_with_path(found["intermediates"])
    return {"/".join(key.key for key in path[:-2]): leaf for path, leaf in leaves}


# Counts of torchvision, whose resnet50 has its stride in the 3x3 convolution.
@pytest.mark.parametrize(
    ("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672), (101, 44_549_160), (152, 60_192_808)]
)
def test_known_parameter_counts(depth, parameters):
    assert parameter_count(ResNet(depth)) == parameters


def test_published_parameter_count_of_50():
    text = files("baselines").joinpath("published/models.csv").read_text()
    counts = {row["model"]: int(row["parameters"]) for row in csv.DictReader(text.splitlines())}
    assert parameter_count(ResNet(50)) == counts["resnet50_v1.5"] == 25_557_032


def narrow_count(n, width, version, norm_on_residual, channels=1, classes=10):
    before, total = width, 9 * channels * width + (2 * width if version == "v1.5" else 8 * width)
    for after in (width, 2 * width, 4 * width):
        total += 9 * before * after + 9 * (2 * n - 1) * after**2  # 2n kernels
        total += 2 * before * after // 2 if before != after else 0
        if version == "v1.5":
            total += 4 * n * after + (2 * after if before != after else 0)
        else:
            total += 2 * before + (4 * n - 2) * after
        total += 2 * n * after if norm_on_residual else 0
        before = after
    return total + before * classes + classes


@pytest.mark.parametrize("norm_on_residual", [False, True])
@pytest.mark.parametrize("version", BLOCKS)
@pytest.mark.parametrize(("depth", "width"), [(8, 1), (20, 6)])
def test_narrow_parameter_counts(depth, width, version, norm_on_residual):
    workload = ResNet(depth, version, "small", width, norm_on_residual, dataset="mnist5k", side=16)
    assert parameter_count(workload) == narrow_count((depth - 2) // 6, width, version, norm_on_residual)


@pytest.mark.parametrize("version", BLOCKS)
def test_shapes_within_50(version):
    """The bottleneck's stride stands in its 3x3 convolution."""
    layers = {path: leaf.shape[1:] for path, leaf in intermediate_shapes(ResNet(50, version)).items()}
    assert layers["stem"] == (112, 112, 64)
    assert layers["group0_block0/conv0"] == (56, 56, 64)
    assert layers["group0_block2"] == (56, 56, 256)
    assert [layers[f"group1_block0/conv{i}"] for i in range(3)] == [(56, 56, 128), (28, 28, 128), (28, 28, 512)]
    assert layers["group1_block0/shortcut"] == layers["group1_block1/conv2"] == (28, 28, 512)
    assert layers["group3_block2"] == (7, 7, 2048)
    assert layers["head"] == (1000,)
    assert "group0_block1/shortcut" not in layers
    assert ("final_norm" in layers) == (version == "v2")


def test_shapes_within_a_narrow_one():
    layers = {
        path: leaf.shape[1:] for path, leaf in intermediate_shapes(ResNet(14, "v1.5", "small", 6, side=9)).items()
    }
    assert [layers[name] for name in ("stem", "group0_block1")] == [(9, 9, 6)] * 2
    assert [layers[f"group{i}_block1"] for i in (1, 2)] == [(5, 5, 12), (3, 3, 24)]
    assert sum("shortcut" in name.split("/") for name in layers) == 2


def reference_block(version, bottleneck, stride, variables, x):
    """A block from its definition, by the running averages, in the order of He et al.'s figures."""
    parameters, state = variables["params"], variables["batch_stats"]

    def conv(name, x, stride=1):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, parameters[name]["kernel"], [stride] * 2, "SAME", dimension_numbers=layout
        )

    def norm(name, x):
        standard = (x - state[name]["mean"]) / jnp.sqrt(state[name]["var"] + 1e-5)
        return standard * parameters[name]["scale"] + parameters[name]["bias"]

    relu = partial(jnp.maximum, 0)
    strides = (1, stride, 1) if bottleneck else (stride, 1)
    if version == "v1.5":
        y = x
        for i, step in enumerate(strides):
            y = norm(f"norm{i}", conv(f"conv{i}", y if i == 0 else relu(y), step))
        total = y + norm("shortcut_norm", conv("shortcut", x, stride))
        return relu(norm("residual_norm", total) if "residual_norm" in parameters else total)
    y = x
    for i, step in enumerate(strides):
        y = conv(f"conv{i}", relu(norm(f"norm{i}", y)), step)
    total = y + conv("shortcut", relu(norm("norm0", x)), stride)
    return norm("residual_norm", total) if "residual_norm" in parameters else total


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("version", BLOCKS)
def test_a_block_is_that_of_the_paper(version, bottleneck):
    x = normal(2, 5, 5, 3)
    blocks = [block_of(version, 2, bottleneck, norm_on_residual) for norm_on_residual in (False, True)]
    variables = [arbitrary(jax.eval_shape(block.init, jax.random.key(0), x)) for block in blocks]
    for each in variables:  # kernels of both signs, so that every ReLU cuts
        each["params"] = jax.tree.map(lambda leaf: leaf - 0.5 if leaf.ndim == 4 else leaf, each["params"])

    @compile_quickly
    def both(variables, x):
        pairs = zip(blocks, variables, strict=True)
        return [(block.apply(v, x), reference_block(version, bottleneck, 2, v, x)) for block, v in pairs]

    (plain, plain_reference), (broken, broken_reference) = both(variables, x)
    assert plain.shape == (2, 3, 3, 16 if bottleneck else 4)
    np.testing.assert_allclose(plain, plain_reference, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(broken, broken_reference, rtol=1e-4, atol=1e-5)
    assert [("residual_norm" in v["params"]) for v in variables] == [False, True]


def max_pool(x):
    """3x3 of stride 2, of an even map, which SAME pads behind alone."""
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = x.shape[1:3]
    return np.max([padded[:, i : i + rows : 2, j : j + columns : 2] for i in range(3) for j in range(3)], axis=0)


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("version", BLOCKS)
def test_what_stands_around_the_blocks(version, stem):
    """Stem and head of a network without blocks, whose average is taken in float32."""
    model = configure(TINY, {"version": version, "compute_dtype": "bfloat16"}).model.clone(blocks=(), stem=stem)
    images = normal(2, 16, 16, 1)
    variables = arbitrary(jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images))
    variables["params"]["stem"]["kernel"] -= 0.6  # to both signs, so that every ReLU cuts
    forward = partial(model.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    logits, found = compile_quickly(forward)(variables, images)
    layers = {
        name: np.float32(layer["__call__"][0]) for name, layer in found["intermediates"].items() if name[0] != "_"
    }
    pool = max_pool if stem == "imagenet" else lambda x: x
    if version == "v1.5":
        x = pool(np.maximum(layers["stem_norm"], 0))
    else:
        state = variables["batch_stats"]["final_norm"]
        standard = (pool(layers["stem"]) - state["mean"]) / np.sqrt(state["var"] + 1e-5)
        parameters = variables["params"]["final_norm"]
        np.testing.assert_allclose(
            layers["final_norm"], standard * parameters["scale"] + parameters["bias"], rtol=0.01, atol=0.01
        )
        x = np.maximum(layers["final_norm"], 0)
    head = variables["params"]["head"]
    expected = np.mean(x, axis=(1, 2)) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


@pytest.mark.parametrize(("version", "bottleneck"), [("v1.5", True), ("v2", False)])
def test_blocks_start_as_the_identity_and_can_leave_it(version, bottleneck):
    """A ReLU of it in v1.5; the gradient of what starts at 0 does not vanish."""
    block = block_of(version, bottleneck=bottleneck, channels=1 if bottleneck else 4, train=True)
    x, direction = normal(2, 5, 5, 4), normal(3, 2, 5, 5, 4)[2]

    @compile_quickly
    def at_initialisation(key, x):
        variables = block.init(key, x)

        def along(parameters):
            y, _ = block.apply({**variables, "params": parameters}, x, mutable=["batch_stats"])
            return jnp.sum(y * direction), y

        return jax.value_and_grad(along, has_aux=True)(variables["params"])

    (_, y), gradients = at_initialisation(jax.random.key(0), x)
    np.testing.assert_array_equal(y, x if version == "v2" else np.maximum(x, 0))
    last = 2 if bottleneck else 1
    zeroed = gradients[f"conv{last}"]["kernel"] if version == "v2" else gradients[f"norm{last}"]["scale"]
    assert np.linalg.norm(zeroed) > 0.1


def test_normalising_after_each_addition_explodes_the_gradient():
    """Through 60 blocks of width 8 at initialisation, provided that the branches do not start at 0."""

    plain, broken = (
        block_of("v1.5", norm_on_residual=norm_on_residual, zero=False, channels=8, train=True)
        for norm_on_residual in (False, True)
    )
    x, direction = normal(16, 8, 8, 8), normal(2, 16, 8, 8, 8)[1]
    stacked = compile_quickly(jax.vmap(broken.init, (0, None)))(jax.random.split(jax.random.key(0), 60), x)

    @partial(compile_quickly, static_argnums=0)
    def gradient_norm(block, variables, x):
        def along(x):
            def through(x, variables):
                return block.apply(variables, x, mutable=["batch_stats"])[0], None

            return jnp.sum(jax.lax.scan(through, x, variables)[0] * direction)

        return jnp.linalg.norm(jax.grad(along)(x))

    norms = [float(gradient_norm(block, stacked, x)) for block in (plain, broken)]  # `plain` uses fewer variables
    assert math.isfinite(norms[1])
    assert norms[1] > 20 * norms[0]


@pytest.mark.parametrize("version", BLOCKS)
def test_bfloat16_is_of_the_activations_alone(version):
    half = configure(TINY, {"version": version, "compute_dtype": "bfloat16"})
    layers = intermediate_shapes(half)
    assert {path for path, leaf in layers.items() if leaf.dtype != jnp.bfloat16} == {"", "head"}
    assert {str(layers[path].dtype) for path in ("", "head")} == {"float32"}
    parameters, state = jax.eval_shape(half.initial, jax.random.key(0))

    def loss(parameters, state, batch):
        return half.loss(parameters, state, batch, True, None)

    found = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), parameters, state, batch_of(half, 8))
    assert dtypes((parameters, state, found)) == {"float32"}


def test_bfloat16_is_close_to_float32():
    half = configure(TINY, {"compute_dtype": "bfloat16"})
    parameters, state = arbitrary(jax.eval_shape(half.initial, jax.random.key(0)))
    parameters["head"]["kernel"] *= np.linspace(-1, 1, 10, dtype=np.float32)  # which tells the classes apart

    @compile_quickly
    def both(parameters, state, batch):
        return [workload.loss(parameters, state, batch, True, None) for workload in (TINY, half)]

    (loss, (_, new_state)), (rough_loss, (_, rough_state)) = both(parameters, state, batch_of(half, 8))
    assert abs(loss - math.log(10)) > 0.5
    assert rough_loss != loss
    assert rough_loss == pytest.approx(float(loss), rel=0.02)
    for rough, exact in zip(jax.tree.leaves(rough_state), jax.tree.leaves(new_state), strict=True):
        np.testing.assert_allclose(rough, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("version", BLOCKS)
def test_the_imagenet_stem_promotes_no_dtype(version):
    workload = ResNet(18, version, width=2, norm_on_residual=True, dataset="mnist5k", side=32)
    parameters, state = jax.eval_shape(workload.initial, jax.random.key(0))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        trace_loss_and_gradient(workload, True, parameters, state, batch_of(workload, 2))


def test_running_averages_move_by_the_momentum_in_training_alone():
    """Of the first norm, which sees the stem's output."""
    workload = configure(TINY, {"batch_norm_momentum": 0.75})
    parameters, state = arbitrary(jax.eval_shape(workload.initial, jax.random.key(0)))
    batch = batch_of(workload, 8)

    @compile_quickly
    def states(parameters, state, batch):
        return [workload.loss(parameters, state, batch, train, None)[1][1] for train in (True, False)]

    trained, evaluated = states(parameters, state, batch)
    jax.tree.map(np.testing.assert_array_equal, evaluated, state)
    stem = convolve_by_matrix_product(batch["image"], parameters["stem"]["kernel"], 1)
    for name, of_the_batch in (("mean", np.mean(stem, (0, 1, 2))), ("var", np.var(stem, (0, 1, 2)))):
        expected = 0.75 * state["stem_norm"][name] + 0.25 * of_the_batch
        np.testing.assert_allclose(trained["stem_norm"][name], expected, rtol=1e-3, atol=1e-4)


def test_accelerator_scale_has_the_published_architecture():
    workload = workload_scale("resnet", "accelerator").workload
    assert parameter_count(workload) == 25_557_032 - 990 * 2049  # 10 classes instead of 1,000
    assert intermediate_shapes(workload)["group3_block2"].shape == (1, 2, 2, 2048)


def test_paper_scale_names_a_mend_for_its_missing_data(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    scale = workload_scale("resnet", "paper")
    assert scale.steps + scale.hyperparameters["warmup_steps"] == 186_667
    for read in (scale.workload.data_hashes, lambda: scale.workload.data(0)):
        with pytest.raises(DataError, match=r"^imagenet2012: not prepared in .*imagenet2012:5\.1\.0"):
            read()


def test_paper_scale_at_full_shapes(tmp_path, monkeypatch):
    """Traced alone, on images of the road."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    folder = synthetic_imagenet.prepare(tmp_path, 4, 3)
    scale = workload_scale("resnet", "paper")
    assert scale.workload.data_hashes() == {"imagenet2012": prepared.content_hash(folder)}
    batch = batch_from(scale.workload.data(0).train, 4)
    assert batch["image"].shape == (4, 224, 224, 3)
    full = {name: jax.ShapeDtypeStruct((1024, *each.shape[1:]), each.dtype) for name, each in batch.items()}
    parameters, state = jax.eval_shape(scale.workload.initial, jax.random.key(0))
    trace_loss_and_gradient(scale.workload, True, parameters, state, full)
    assert jax.eval_shape(scale.workload.predictions, parameters, state, full).shape == (1024,)


def batch_from(stream, size):
    examples = [stream.prepare(stream.records[i], np.random.default_rng(i)) for i in range(size)]
    batch = {name: np.stack([example[name] for example in examples]) for name in ("image", "label")}
    return {**batch, "weight": np.ones(size, np.float32)}


class TestPhotoPatchesJpeg:
    """The road of ImageNet on photographs that are always there."""

    @pytest.fixture
    def workload(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return ResNet(8, stem="small", width=4, dataset="photo_patches_jpeg", side=64)

    def test_two_steps(self, workload):
        """Each lowers the loss of its batch."""
        batch = batch_from(workload.data(0).train, 16)
        assert batch["image"].dtype == np.uint8
        parameters, state = compile_quickly(workload.initial)(jax.random.key(0))

        @compile_quickly
        def step(parameters, state, batch):
            with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
                (loss, (_, state)), gradients = jax.value_and_grad(workload.loss, has_aux=True)(
                    parameters, state, batch, True, None
                )
            return jax.tree.map(lambda p, g: p - 0.01 * g, parameters, gradients), state, loss

        losses = []
        for _ in range(3):
            parameters, state, loss = step(parameters, state, batch)
            losses.append(float(loss))
        assert losses[0] == pytest.approx(math.log(10), abs=0.5)
        assert losses[0] > losses[1] > losses[2]

    def test_laptop_scale_takes_it(self, workload):
        laptop = workload_scale("resnet", "laptop").workload
        small = configure(laptop, {"dataset": "photo_patches_jpeg"})
        assert small.data(0).validation.prepare(small.data(0).validation.records[0], np.random.default_rng(0))[
            "image"
        ].shape == (16, 16, 3)
        assert small.data_hashes() == {"photo_patches_jpeg": photo_patches_jpeg.content_hash()}

    def test_images_are_standardised(self, workload):
        """Bytes and what they stand for give the same loss."""
        workload = configure(TINY, {"dataset": "photo_patches_jpeg"})
        batch = batch_from(workload.data(0).train, 8)
        parameters, state = arbitrary(jax.eval_shape(workload.initial, jax.random.key(0)))
        mean, deviation = (np.array(e, np.float32) for e in (photo_patches_jpeg.MEAN, photo_patches_jpeg.DEVIATION))
        raw = batch["image"].astype(np.float32)
        loss = compile_quickly(lambda batch: workload.loss(parameters, state, batch, False, None)[0])
        bytewise, standardised, other = (
            float(loss({**batch, "image": image})) for image in (batch["image"], (raw - mean) / deviation, raw)
        )
        assert bytewise == pytest.approx(standardised, rel=1e-4)
        assert bytewise != pytest.approx(other, rel=0.01)


def test_strings_are_read_as_the_fields_types():
    overrides = {"depth": "14", "stem": "small", "norm_on_residual": "true", "zero_init_last_scale": "false"}
    assert configure(ResNet(), overrides) == ResNet(14, "v1.5", "small", 64, True, False)


@pytest.mark.parametrize(
    ("field", "value", "expectation"),
    [
        ("depth", 20, "one of 18, 34, 50, 101, 152, 200 with stem='imagenet'"),
        ("depth", "abc", "expected int"),
        ("version", "v1", "v1.5, v2"),
        ("stem", "cifar", "imagenet, small"),
        ("width", 0, "at least 1"),
        ("norm_on_residual", "yes", "true, false"),
        ("norm_on_residual", 2, "False, True"),
        ("zero_init_last_scale", None, "False, True"),
        ("batch_norm_momentum", 1.0, "below 1"),
        ("batch_norm_momentum", "nan", "below 1"),
        ("batch_norm_momentum", -0.1, "at least 0"),
        ("virtual_batch_size", -1, "at least 0"),
        ("virtual_batch_size", "1.5", "expected int"),
        ("compute_dtype", "float16", "float32, bfloat16"),
        ("dataset", "cifar10", "imagenet2012, photo_patches, photo_patches_jpeg, mnist5k"),
        ("dataset", "photo_patches", "8 to 64 of photo_patches"),
        ("dataset", "photo_patches_jpeg", "8 to 64 of photo_patches_jpeg"),
        ("side", 31, "at least 32 with stem='imagenet'"),
        ("side", float("nan"), "at least 32"),
        ("convolution", "fft", "xla, matrix_product, by_backend"),
    ],
)
def test_bad_values_are_refused(field, value, expectation):
    with pytest.raises(ConfigurationError) as caught:
        configure(ResNet(), {field: value})
    message = str(caught.value)
    found = float(value) if field == "batch_norm_momentum" else value
    found, field = (224, "side") if str(value).startswith("photo_patches") else (found, field)
    assert message.startswith(f"{field}={found!r}: ")
    assert expectation in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("field", "value", "expectation"),
    [("depth", 2, "6n + 2"), ("depth", 10, "6n + 2"), ("side", 3, "at least 4 with stem='small'")],
)
def test_bad_values_of_narrow_networks_are_refused(field, value, expectation):
    with pytest.raises(ConfigurationError, match=f"^{field}={value}: ") as caught:
        configure(TINY, {field: value})
    assert expectation in str(caught.value)
