import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads.contract import WorkloadContract, bits, compile_quickly, dtypes, trace_loss_and_gradient
from workloads.transformer.model import sinusoids
from workloads.transformer.workload import Transformer
from workloads.workload import ConfigurationError, configure, workload_scale

LENGTH = 6
KEY = jax.random.key(0)


class TestTransformer(WorkloadContract):
    name = "transformer"
    split_sizes = {"train": 100_812, "validation": 2730}  # noqa: RUF012
    stated = {"smoke": 4.4, "laptop": 1.8}  # noqa: RUF012

    @staticmethod
    def counts(labels):
        return labels != 0


def build(**fields):
    return Transformer(**{"layers": 1, "width": 8, "heads": 2, "mlp_width": 12, "dataset": "shakespeare", **fields})


def shapes(workload):
    return jax.eval_shape(workload.initial, KEY)[0]


def arbitrary_parameters(workload):
    """Parameters of the right shapes that need no compilation, none of them 0 or 1 throughout."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.5 * random.standard_normal(leaf.shape).astype(np.float32), shapes(workload))


def parameter_count(workload):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(workload)))


def arbitrary_batch(rows=3, length=LENGTH):
    ids = np.random.default_rng(1).integers(1, 85, (rows, length + 1), dtype=np.int32)
    return {"input": ids[:, :-1].copy(), "label": ids[:, 1:].copy(), "weight": np.ones(rows, np.float32)}


def logits_of(workload, parameters, inputs):
    apply = compile_quickly(lambda p, x: workload.model.apply({"params": p}, x, train=False))
    return np.asarray(apply(parameters, inputs))


def reference(workload, parameters, ids):
    """The logits that the formulas give for one sequence, in float64 and one position and head at a time."""
    parameters = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters)

    def normalize(name, x):
        centered = x - x.mean(-1, keepdims=True)
        normalized = centered / np.sqrt(np.mean(centered**2, -1, keepdims=True) + 1e-6)
        return normalized * parameters[name]["scale"] + parameters[name]["bias"]

    def attention(p, x):
        query, key, value = np.split(x @ p["query_key_value"]["kernel"], 3, -1)
        size = workload.width // workload.heads
        result = np.zeros_like(x)
        for position in range(len(x)):
            for columns in (slice(h * size, (h + 1) * size) for h in range(workload.heads)):
                seen = np.exp(key[: position + 1, columns] @ query[position, columns] / math.sqrt(size))
                result[position, columns] = seen / seen.sum() @ value[: position + 1, columns]
        return result @ p["out"]["kernel"]

    def mlp(p, x):
        hidden = np.maximum(x @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
        return hidden @ p["out"]["kernel"] + p["out"]["bias"]

    embedding = parameters["embedding"]["embedding"]
    x = embedding[ids] * math.sqrt(workload.width) + sinusoids(len(ids), workload.width)
    for layer in range(workload.layers):
        for name, function in (("self_attention", attention), ("mlp", mlp)):
            name = f"decoder{layer}_{name}"
            f, norm = partial(function, parameters[name]), partial(normalize, f"{name}_norm")
            alpha = parameters[f"{name}_rezero"] if workload.rezero else 1
            x = {
                "before": lambda x, f=f, norm=norm, alpha=alpha: x + alpha * f(norm(x)),
                "after": lambda x, f=f, norm=norm, alpha=alpha: norm(x + alpha * f(x)),
                "inside": lambda x, f=f, norm=norm, alpha=alpha: x + alpha * norm(f(x)),
                "none": lambda x, f=f, norm=norm, alpha=alpha: x + alpha * f(x),
            }[workload.normalization](x)
    if workload.normalization in ("before", "inside"):
        x = normalize("decoder_norm", x)
    if workload.tied_embeddings:
        return x @ embedding.T / math.sqrt(workload.width)
    return x @ parameters["head"]["kernel"] + parameters["head"]["bias"]


@pytest.mark.parametrize(
    "fields",
    [
        {"normalization": "before"},
        {"normalization": "after", "tied_embeddings": True},
        {"normalization": "inside", "rezero": True},
        {"normalization": "none", "rezero": True, "tied_embeddings": True},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_logits_are_those_of_the_formulas(fields):
    workload = build(**fields)
    parameters = arbitrary_parameters(workload)
    ids = arbitrary_batch(1)["input"]
    expected = reference(workload, parameters, ids[0])
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(logits_of(workload, parameters, ids)[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("normalization", ["before", "after", "inside", "none"])
def test_every_normalization_has_its_parameters(normalization):
    norms = {name for name in shapes(build(normalization=normalization)) if name.endswith("_norm")}
    of_sublayers = {"decoder0_self_attention_norm", "decoder0_mlp_norm"} if normalization != "none" else set()
    assert norms == of_sublayers | ({"decoder_norm"} if normalization in ("before", "inside") else set())


def test_positions_are_the_published_ones():
    encodings = sinusoids(20, 6)
    for position, i in ((0, 0), (3, 1), (19, 2)):
        angle = position / 10_000 ** (2 * i / 6)
        expected = [math.sin(angle), math.cos(angle)]
        np.testing.assert_allclose(encodings[position, 2 * i : 2 * i + 2], expected, rtol=1e-6)


def test_a_later_input_changes_no_earlier_logits():
    workload = build(layers=2)
    inputs = np.repeat(arbitrary_batch(1)["input"], LENGTH + 1, axis=0)
    changed = np.arange(LENGTH)
    inputs[changed, changed] = inputs[changed, changed] % 84 + 1  # the last row stays as it was
    *logits, unchanged = logits_of(workload, arbitrary_parameters(workload), inputs)
    for position, row in enumerate(logits):
        assert bits(row[:position]) == bits(unchanged[:position])
        assert np.all(np.any(row[position:] != unchanged[position:], axis=-1))


def test_padding_changes_no_metric():
    workload = build()
    parameters = arbitrary_parameters(workload)

    @compile_quickly
    def evaluate(batch):
        return workload.loss(parameters, {}, batch, False, None)[1][0]

    batch = arbitrary_batch()
    batch["input"][0, 4:] = batch["label"][0, 4:] = 0
    metrics = evaluate(batch)
    assert metrics["weight"] == 3 * LENGTH - 2
    other = {**batch, "input": np.where(batch["label"] == 0, 7, batch["input"])}
    longer = {name: np.pad(batch[name], ((0, 0), (0, 3))) for name in ("input", "label")}
    for padded in (other, {**batch, **longer}):
        for name, value in evaluate(padded).items():
            assert value == pytest.approx(float(metrics[name]), rel=1e-5), name


PACKED_LENGTH = 10


def packed_batch(rows):
    """Sequences, given row by row as lists of ids, side by side; the label of each symbol is the next, the last's 1."""
    fields = {name: [] for name in ("input", "label", "segment", "position")}
    for sequences in rows:
        label = np.concatenate([[*ids[1:], 1] for ids in sequences])
        segment = np.repeat(np.arange(1, len(sequences) + 1), list(map(len, sequences)))
        position = np.concatenate([np.arange(len(ids)) for ids in sequences])
        for name, values in zip(fields, (np.concatenate(sequences), label, segment, position), strict=True):
            fields[name].append(np.pad(values, (0, PACKED_LENGTH - len(values))))
    return {**{name: np.array(values, np.int32) for name, values in fields.items()}, "weight": np.ones(len(rows), "f4")}


def test_packed_logits_are_those_of_each_sequence_alone():
    workload = build(layers=2)
    parameters = arbitrary_parameters(workload)
    rows = [[[5, 9, 3], [7, 2, 8, 6], [4]], [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], [[9, 9], [9, 9]]]
    batch = packed_batch(rows)

    @compile_quickly
    def apply(batch):
        return workload._logits(parameters, batch, False, None)

    logits = np.asarray(apply(batch))
    alone = [np.pad(ids, (0, PACKED_LENGTH - len(ids))) for sequences in rows for ids in sequences]
    alone = apply({"input": np.array(alone, np.int32)})
    alone = iter(np.asarray(alone))
    assert np.all(np.isfinite(logits))
    for row, sequences in enumerate(rows):
        for segment, ids in enumerate(sequences, 1):
            there = batch["segment"][row] == segment
            np.testing.assert_allclose(logits[row, there], next(alone)[: len(ids)], rtol=1e-4, atol=1e-4)
    unpacked = np.asarray(apply({"input": batch["input"]}))
    assert np.max(np.abs(unpacked[0, 3:] - logits[0, 3:])) > 0.1


def test_padding_of_packed_examples_changes_no_gradient():
    workload = build(layers=2)
    parameters = arbitrary_parameters(workload)

    @compile_quickly
    def gradient(batch):
        return jax.grad(lambda p: workload.loss(p, {}, batch, True, None)[0])(parameters)

    batch = packed_batch([[[5, 9, 3], [7, 2, 8, 6]], [[4]]])
    other = {**batch, "input": np.where(batch["segment"] == 0, 7, batch["input"])}
    for one, two in zip(jax.tree.leaves(gradient(batch)), jax.tree.leaves(gradient(other)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
        assert np.all(np.isfinite(one))


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_packed_examples_promote_nothing(compute_dtype):
    workload = build(compute_dtype=compute_dtype)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        trace_loss_and_gradient(workload, True, shapes(workload), {}, packed_batch([[[5, 9, 3], [7]]]))


def test_unpacked_examples_pay_nothing():
    """Their program compares no segments: its one mask is a constant."""
    workload = build()

    def comparisons(batch):
        loss = jax.make_jaxpr(lambda p, b: workload.loss(p, {}, b, True, None))(shapes(workload), batch)
        return [e.outvars[0].aval.shape for e in loss.eqns if e.primitive.name == "eq" and e.outvars[0].aval.ndim == 4]

    assert comparisons(arbitrary_batch()) == []
    assert comparisons(packed_batch([[[5, 9, 3], [7]]])) == [(1, 1, PACKED_LENGTH, PACKED_LENGTH)]


def without_branches(parameters):
    """As at initialisation with rezero."""
    return {name: 0 * leaf if name.endswith("_rezero") else leaf for name, leaf in parameters.items()}


def test_without_branches_a_symbol_sees_itself_alone():
    workload = build(layers=2, normalization="none", rezero=True)
    parameters = without_branches(arbitrary_parameters(workload))
    ids = arbitrary_batch(1)["input"]
    read = parameters["embedding"]["embedding"][ids] * math.sqrt(8) + sinusoids(LENGTH, 8)
    expected = read @ parameters["head"]["kernel"] + parameters["head"]["bias"]
    np.testing.assert_allclose(logits_of(workload, parameters, ids), expected, rtol=1e-4, atol=1e-4)


def test_initialisation_is_of_guessing_without_branches():
    workload = build(width=256, heads=4, rezero=True, tied_embeddings=True)
    batch = arbitrary_batch(8)

    @compile_quickly
    def start(key):
        parameters, state = workload.initial(key)
        return parameters, workload.loss(parameters, state, batch, False, None)[0]

    parameters, loss = start(KEY)
    assert loss == pytest.approx(math.log(workload.classes), abs=0.1)
    assert np.std(parameters["embedding"]["embedding"]) == pytest.approx(256**-0.5, rel=0.02)
    kernel = parameters["decoder0_self_attention"]["query_key_value"]["kernel"]
    assert np.max(np.abs(kernel)) == pytest.approx(math.sqrt(6 / (256 + 256)), rel=1e-3)  # Xavier's uniform
    alphas = [leaf for name, leaf in parameters.items() if name.endswith("_rezero")]
    assert alphas == [0, 0]


def drawn_shapes(monkeypatch, workload, train):
    """Shapes of all masks that the loss draws."""
    drawn = []
    draw = jax.random.bernoulli

    def recorded(key, p, shape, *rest, **named):
        drawn.append(tuple(shape))
        return draw(key, p, shape, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "bernoulli", recorded)
        jax.eval_shape(partial(workload.loss, train=train), shapes(workload), {}, arbitrary_batch(), key=KEY)
    return drawn


def test_dropout_draws_for_the_embeddings_and_each_branch_in_training_alone(monkeypatch):
    assert drawn_shapes(monkeypatch, build(layers=2, dropout=0.1), True) == [(3, LENGTH, 8)] * (1 + 2 * 2)
    assert drawn_shapes(monkeypatch, build(layers=2, dropout=0.1), False) == []
    assert drawn_shapes(monkeypatch, build(layers=2, dropout=0.0), True) == []


def test_dropout_is_unbiased_and_a_function_of_the_key():
    """Without branches the logits are linear in what is dropped."""
    workload = build(normalization="none", rezero=True, dropout=0.25)
    parameters = without_branches(arbitrary_parameters(workload))
    batch = arbitrary_batch(1)

    @compile_quickly
    def run(keys):
        apply = partial(workload.model.apply, {"params": parameters}, batch["input"])
        loss = partial(workload.loss, parameters, {}, batch, True)
        dropped, losses = jax.vmap(lambda key: (apply(train=True, rngs={"dropout": key}), loss(key)[0]))(keys)
        return dropped, losses, apply(train=False)

    dropped, losses, whole = run(jax.random.split(KEY, 4000)[np.r_[0, :4000]])
    error = np.std(dropped, axis=0) / math.sqrt(4000)
    assert np.all(np.abs(np.mean(dropped, axis=0) - whole) < 5 * error + 1e-5)
    assert losses[0] == losses[1] != losses[2]


def test_qk_norm_bounds_attention_logits_whatever_the_kernels_scale():
    workload = build(normalization="none", qk_norm=True, width=16)
    parameters = arbitrary_parameters(workload)
    of_attention = parameters["decoder0_self_attention"]
    for name in ("query_norm", "key_norm"):
        assert set(of_attention[name]) == {"scale"}
        of_attention[name]["scale"] = np.ones(8, np.float32)
    ids = arbitrary_batch()["input"]

    @compile_quickly
    def run(parameters):
        logits, captured = workload.model.apply({"params": parameters}, ids, train=False, capture_intermediates=True)
        inside = captured["intermediates"]["decoder0_self_attention"]
        return logits, [inside[name]["__call__"][0] for name in ("query_norm", "key_norm")]

    logits, _ = run(parameters)
    of_attention["query_key_value"]["kernel"] *= np.where(np.arange(48) < 32, 1000, 1).astype(np.float32)
    scaled, (query, key) = run(parameters)
    np.testing.assert_allclose(scaled, logits, rtol=1e-3, atol=1e-3)
    largest = np.max(np.abs(np.einsum("bqhd,bkhd->bhqk", query, key))) / math.sqrt(8)
    assert 0.5 * math.sqrt(8) < largest < 1.001 * math.sqrt(8)


def test_z_loss_adds_the_square_of_log_z_in_training_alone():
    workload = build(z_loss=0.1)
    parameters = arbitrary_parameters(workload)
    batch = arbitrary_batch()
    batch["label"][0, 4:] = 0
    log_z = np.log(np.sum(np.exp(logits_of(workload, parameters, batch["input"])), axis=-1))
    program = compile_quickly(lambda p, b: [workload.loss(p, {}, b, train, None) for train in (True, False)])
    (minimised, (trained, _)), (evaluated, (metrics, _)) = program(parameters, batch)
    expected = 0.1 * np.mean(log_z[batch["label"] != 0] ** 2)
    assert minimised - evaluated == pytest.approx(expected, rel=1e-3)
    assert metrics["loss"] == evaluated
    assert trained["loss"] == pytest.approx(float(evaluated), rel=1e-5)


def test_bfloat16_is_close_and_leaves_float32_parameters_and_logits():
    precise, coarse = build(qk_norm=True), build(qk_norm=True, compute_dtype="bfloat16")
    parameters = jax.tree.map(lambda leaf: leaf / 4, arbitrary_parameters(precise))
    inputs = arbitrary_batch()["input"]
    expected, logits = (logits_of(workload, parameters, inputs) for workload in (precise, coarse))
    assert dtypes([shapes(coarse), logits]) == {"float32"}
    assert bits(logits) != bits(expected)
    np.testing.assert_allclose(logits, expected, atol=0.03 * np.ptp(expected))
    with jax.numpy_dtype_promotion("strict"):
        trace_loss_and_gradient(coarse, True, shapes(coarse), {}, arbitrary_batch())


def hessian_product(workload, parameters, direction):
    gradient = jax.grad(lambda p: workload.loss(p, {}, arbitrary_batch(), True, None)[0])
    return jax.jvp(gradient, (parameters,), (direction,))[1]


def test_the_gradient_has_a_derivative():
    workload = build(qk_norm=True)
    parameters = arbitrary_parameters(workload)
    product = compile_quickly(partial(hessian_product, workload))(parameters, parameters)
    for leaf in jax.tree.leaves(product):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != 0)


def test_the_bfloat16_gradient_has_a_derivative():
    workload = build(qk_norm=True, compute_dtype="bfloat16")
    jax.eval_shape(partial(hessian_product, workload), shapes(workload), shapes(workload))


def test_parameters_of_the_lm1b_setting():
    layer = 4 * 512**2 + (2 * 512 * 2048 + 2048 + 512) + 2 * (2 * 512)
    stack, embedding, head = 6 * layer + 2 * 512, 30_000 * 512, 512 * 30_000 + 30_000
    workload = workload_scale("transformer", "paper").workload
    assert parameter_count(workload) == stack + embedding + head == 49_653_040
    one = configure(workload, {"layers": 1})
    count = parameter_count(one)
    assert parameter_count(configure(one, {"tied_embeddings": True})) == count - head
    assert parameter_count(configure(one, {"rezero": True})) == count + 2
    assert parameter_count(configure(one, {"qk_norm": True})) == count + 2 * 64
    assert parameter_count(configure(one, {"normalization": "inside"})) == count
    assert parameter_count(configure(one, {"normalization": "after"})) == count - 2 * 512
    assert parameter_count(configure(one, {"normalization": "none"})) == count - 3 * 2 * 512


def test_what_decays_is_named_kernel():
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(shapes(build(qk_norm=True)))}
    assert names == {"kernel", "bias", "scale", "embedding"}


@pytest.mark.parametrize("scale", ["accelerator", "paper"])
def test_bigger_scales_are_of_one_piece(scale):
    size = workload_scale("transformer", scale)
    parameters, state = jax.eval_shape(size.workload.initial, jax.random.key(0))
    ids = jax.ShapeDtypeStruct((size.batch_size, size.workload.length), jnp.int32)
    weight = jax.ShapeDtypeStruct((size.batch_size,), jnp.float32)
    batch = {"input": ids, "label": ids, "weight": weight}
    if scale == "paper":
        batch |= {"segment": ids, "position": ids}
    loss, _ = jax.eval_shape(partial(size.workload.loss, train=True), parameters, state, batch, key=KEY)
    assert loss.shape == ()


def test_strings_are_read_as_the_fields_types():
    strings = {"rezero": "true", "qk_norm": "false", "z_loss": "1e-4", "dropout": ".1", "normalization": "after"}
    expected = build(rezero=True, qk_norm=False, z_loss=1e-4, dropout=0.1, normalization="after")
    assert configure(build(), strings) == expected


@pytest.mark.parametrize(
    ("field", "value", "expectation"),
    [
        ("layers", 0, "at least 1"),
        ("width", 0, "even number"),
        ("width", 15, "even number"),
        ("heads", 0, "at least 1"),
        ("heads", 3, "divisor of width=8"),
        ("mlp_width", 0, "at least 1"),
        ("length", 0, "at least 1"),
        ("normalization", "pre", "before, after, inside, none"),
        ("rezero", "yes", "true, false"),
        ("rezero", 2, "False, True"),
        ("tied_embeddings", 2, "False, True"),
        ("qk_norm", 2, "False, True"),
        ("dropout", 1.0, "below 1"),
        ("dropout", -0.1, "at least 0"),
        ("dropout", math.nan, "at least 0"),
        ("z_loss", -1.0, "at least 0"),
        ("z_loss", math.inf, "finite"),
        ("compute_dtype", "float16", "float32, bfloat16"),
        ("dataset", "wikitext", "shakespeare, lm1b"),
    ],
)
def test_bad_values_are_refused(field, value, expectation):
    with pytest.raises(ConfigurationError) as caught:
        configure(build(), {field: value})
    message = str(caught.value)
    assert message.startswith(f"{field}={value!r}: ")
    assert expectation in message
    assert len(message.splitlines()) == 1
