import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads.contract import WorkloadContract, bits, compile_quickly
from workloads.seq2seq_transformer.workload import Seq2SeqTransformer
from workloads.transformer.model import token_loss
from workloads.workload import ConfigurationError, configure, workload_scale

SOURCE_LENGTH, LENGTH = 5, 6


class TestSeq2SeqTransformer(WorkloadContract):
    name = "seq2seq_transformer"
    split_sizes = {"train": 115_322, "validation": 2048}  # noqa: RUF012
    stated = {"smoke": 0.97, "laptop": 0.15}  # noqa: RUF012

    @staticmethod
    def counts(labels):
        return labels != 0


def build(**fields):
    small = {"layers": 1, "width": 8, "heads": 2, "mlp_width": 12, "dropout": 0.0, "dataset": "cmudict"}
    return Seq2SeqTransformer(**{**small, **fields})


def shapes(workload):
    return jax.eval_shape(workload.initial, jax.random.key(0))[0]


def arbitrary_parameters(workload):
    """Parameters of the right shapes that need no compilation, none of them 0 or 1 throughout."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.5 * random.standard_normal(leaf.shape).astype(np.float32), shapes(workload))


def parameter_count(workload):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(workload)))


def arbitrary_batch(rows=3):
    random = np.random.default_rng(1)
    source = random.integers(1, 27, (rows, SOURCE_LENGTH), dtype=np.int32)
    target = random.integers(1, 72, (rows, LENGTH + 1), dtype=np.int32)
    inputs, labels = target[:, :-1].copy(), target[:, 1:].copy()
    return {"source": source, "input": inputs, "label": labels, "weight": np.ones(rows, np.float32)}


@pytest.fixture(scope="module")
def small():
    """A workload, its parameters and its logits, compiled, of source and input."""
    workload = build()
    parameters = arbitrary_parameters(workload)
    apply = compile_quickly(lambda source, inputs: workload.model.apply({"params": parameters}, source, inputs, False))
    return workload, parameters, lambda source, inputs: np.asarray(apply(source, inputs))


def test_a_later_input_changes_no_earlier_logits(small):
    batch = {name: np.repeat(values, LENGTH + 1, axis=0) for name, values in arbitrary_batch(1).items()}
    changed = np.arange(LENGTH)
    batch["input"][changed, changed] = batch["input"][changed, changed] % 71 + 1  # the last row stays as it was
    *logits, unchanged = small[2](batch["source"], batch["input"])
    for position, row in enumerate(logits):
        assert bits(row[:position]) == bits(unchanged[:position])
        assert np.all(np.any(row[position:] != unchanged[position:], axis=-1))


def test_every_symbol_of_the_source_changes_all_logits(small):
    batch = {name: np.repeat(values, LENGTH + 1, axis=0) for name, values in arbitrary_batch(1).items()}
    changed = np.arange(SOURCE_LENGTH)
    batch["source"][changed, changed] = batch["source"][changed, changed] % 26 + 1
    *logits, unchanged = small[2](batch["source"], batch["input"])
    for row in logits[:SOURCE_LENGTH]:
        assert np.all(np.any(row != unchanged, axis=-1))


def test_the_encoder_reads_both_ways(small):
    workload, parameters, _ = small
    source, inputs = np.repeat(arbitrary_batch(1)["source"], 2, axis=0), np.ones((2, 1), np.int32)
    source[1, -1] = source[1, -1] % 26 + 1

    @compile_quickly
    def memory(source):
        apply = partial(workload.model.apply, {"params": parameters}, capture_intermediates=True)
        return apply(source, inputs, False)[1]["intermediates"]["encoder_norm"]["__call__"][0]

    first, second = np.asarray(memory(source))
    assert np.all(np.any(first != second, axis=-1))


def test_padding_changes_no_metric(small):
    @compile_quickly
    def metrics(logits, batch):
        return token_loss(logits, batch["label"], batch["weight"])[1]

    def evaluate(batch):
        return metrics(small[2](batch["source"], batch["input"]), batch)

    batch = arbitrary_batch(LENGTH + 1)
    batch["source"][1, 3:] = 0
    batch["input"][0, 4:] = batch["label"][0, 4:] = 0
    expected = evaluate(batch)
    assert expected["weight"] == (LENGTH + 1) * LENGTH - 2
    other = {**batch, "input": np.where(batch["label"] == 0, 7, batch["input"])}
    longer = {name: np.pad(batch[name], ((0, 0), (0, 2))) for name in ("source", "input", "label")}
    for padded in (other, {**batch, **longer}):
        for name, value in evaluate(padded).items():
            assert value == pytest.approx(float(expected[name]), rel=1e-5), name


def test_packed_logits_are_those_of_each_pair_alone():
    workload = build(layers=2)
    parameters = arbitrary_parameters(workload)
    rows = [
        [([5, 9, 3, 4], [7, 2]), ([8], [6, 11, 12]), ([1, 2], [4])],
        [([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3])],  # padding of the target sees nothing of the source
        [([9, 9], [9, 9]), ([9, 9], [9, 9])],
    ]
    batch = packed_batch(rows)
    apply = compile_quickly(lambda batch: workload._logits(parameters, batch, False, None))
    logits = np.asarray(apply(batch))
    pairs = [pair for row in rows for pair in row]
    alone = {"source": [padded(source) for source, _ in pairs], "input": [padded(target) for _, target in pairs]}
    alone = iter(np.asarray(apply({name: np.array(ids, np.int32) for name, ids in alone.items()})))
    assert np.all(np.isfinite(logits))
    for row, of_row in enumerate(rows):
        for segment, (_, target) in enumerate(of_row, 1):
            there = batch["segment"][row] == segment
            np.testing.assert_allclose(logits[row, there], next(alone)[: len(target)], rtol=1e-4, atol=1e-4)
    unpacked = np.asarray(apply({name: batch[name] for name in ("source", "input")}))
    assert np.max(np.abs(unpacked[0, 2:] - logits[0, 2:])) > 0.1


def padded(ids):
    return np.pad(ids, (0, 8 - len(ids)))


def packed_batch(rows):
    """Pairs of source and target side by side; the labels are the inputs."""
    fields = {name: [] for name in ("source", "source_segment", "source_position", "input", "segment", "position")}
    for pairs in rows:
        for side, names in enumerate(np.array_split(list(fields), 2)):
            ids = np.concatenate([pair[side] for pair in pairs])
            segment = np.repeat(np.arange(1, len(pairs) + 1), [len(pair[side]) for pair in pairs])
            position = np.concatenate([np.arange(len(pair[side])) for pair in pairs])
            for name, values in zip(names, (ids, segment, position), strict=True):
                fields[name].append(padded(values))
    batch = {name: np.array(values, np.int32) for name, values in fields.items()}
    return {**batch, "label": batch["input"], "weight": np.ones(len(rows), np.float32)}


def test_packed_examples_promote_nothing_and_have_a_finite_gradient():
    workload = build()
    parameters, batch = arbitrary_parameters(workload), packed_batch([[([5, 9, 3], [7]), ([1] * 5, [6])]])
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        gradient = compile_quickly(jax.grad(lambda p: workload.loss(p, {}, batch, True, None)[0]))(parameters)
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))


def test_the_logits_of_one_place(small):
    workload, parameters, apply = small
    batch = arbitrary_batch()
    apply_one = compile_quickly(
        lambda last: workload.model.apply({"params": parameters}, batch["source"], batch["input"], False, last=last)
    )
    expected = apply(batch["source"], batch["input"])
    for last in range(LENGTH):
        np.testing.assert_allclose(apply_one(last)[:, 0], expected[:, last], rtol=1e-5, atol=1e-5)


def test_the_head_is_tied_to_the_targets_embedding():
    tied, untied = shapes(build()), shapes(build(tied_embeddings=False))
    assert set(untied) - set(tied) == {"head"}
    assert tied["source_embedding"]["embedding"].shape == (27, 8)
    assert tied["embedding"]["embedding"].shape == (72, 8)


@pytest.mark.parametrize("train", [True, False])
def test_dropout_draws_for_both_embeddings_and_each_branch_in_training_alone(monkeypatch, train):
    drawn = []
    draw = jax.random.bernoulli

    def recorded(key, p, shape, *rest, **named):
        drawn.append(tuple(shape))
        return draw(key, p, shape, *rest, **named)

    monkeypatch.setattr(jax.random, "bernoulli", recorded)
    workload = build(layers=2, dropout=0.1)
    key = jax.random.key(0)
    jax.eval_shape(partial(workload.loss, train=train), shapes(workload), {}, arbitrary_batch(), key=key)
    encoder, decoder = (3, SOURCE_LENGTH, 8), (3, LENGTH, 8)
    assert drawn == ([encoder] * (1 + 2 * 2) + [decoder] * (1 + 2 * 3) if train else [])


def test_the_gradient_has_a_derivative():
    """Its value is tested with the language model."""
    workload = build(qk_norm=True, rezero=True, normalization="after", z_loss=1e-4)

    def product(parameters, direction):
        gradient = jax.grad(lambda p: workload.loss(p, {}, arbitrary_batch(), True, None)[0])
        return jax.jvp(gradient, (parameters,), (direction,))[1]

    parameters = shapes(workload)
    product_shapes = jax.eval_shape(product, parameters, parameters)
    assert jax.tree.map(jnp.shape, product_shapes) == jax.tree.map(jnp.shape, parameters)


def layer_sizes(width, mlp_width):
    """Parameters of a layer of the encoder and of the decoder, by the formula."""
    attention, norm = 4 * width**2, 2 * width
    mlp = 2 * width * mlp_width + mlp_width + width
    return attention + mlp + 2 * norm, 2 * attention + mlp + 3 * norm


def test_parameters_of_the_published_base_model():
    """63 million with 37,000 symbols, which its table rounds to 65; here WMT has 32,000."""
    workload = Seq2SeqTransformer(normalization="after")
    layers = 6 * sum(layer_sizes(512, 2048))
    assert parameter_count(workload) == layers + 32_000 * 512 == 60_485_632
    assert layers + 37_000 * 512 == pytest.approx(65e6, rel=0.04)
    one = configure(workload, {"layers": 1})
    count = parameter_count(one)
    assert parameter_count(configure(one, {"normalization": "before"})) == count + 2 * 2 * 512
    assert parameter_count(configure(one, {"rezero": True})) == count + 5
    assert parameter_count(configure(one, {"qk_norm": True})) == count + 3 * 2 * 64
    assert parameter_count(configure(one, {"tied_embeddings": False})) == count + 32_000 * 513
    assert parameter_count(configure(one, {"dataset": "cmudict"})) == count + (27 + 72 - 32_000) * 512


@pytest.mark.parametrize("scale", ["accelerator", "paper"])
def test_bigger_scales_are_of_one_piece(scale):
    size = workload_scale("seq2seq_transformer", scale)
    parameters, state = jax.eval_shape(size.workload.initial, jax.random.key(0))
    ids = jax.ShapeDtypeStruct((size.batch_size, 256 if scale == "paper" else 16), jnp.int32)
    weight = jax.ShapeDtypeStruct((size.batch_size,), jnp.float32)
    batch = {"source": ids, "input": ids, "label": ids, "weight": weight}
    if scale == "paper":
        batch |= dict.fromkeys(("source_segment", "source_position", "segment", "position"), ids)
    loss, _ = jax.eval_shape(partial(size.workload.loss, train=True), parameters, state, batch, key=jax.random.key(0))
    assert loss.shape == ()


def test_paper_scale_is_the_published_big_model():
    workload = workload_scale("seq2seq_transformer", "paper").workload
    assert parameter_count(workload) == 6 * sum(layer_sizes(1024, 4096)) + 2 * 2 * 1024 + 32_000 * 1024


@pytest.mark.parametrize(
    ("field", "value", "expectation"),
    [
        ("layers", 0, "at least 1"),
        ("heads", 3, "divisor of width=8"),
        ("normalization", "pre", "before, after, inside, none"),
        ("tied_embeddings", "no", "true, false"),
        ("dropout", math.nan, "at least 0"),
        ("z_loss", -1.0, "at least 0"),
        ("compute_dtype", "float16", "float32, bfloat16"),
        ("dataset", "wmt", "cmudict, wmt14_translate/de-en"),
    ],
)
def test_bad_values_are_refused(field, value, expectation):
    with pytest.raises(ConfigurationError) as caught:
        configure(build(), {field: value})
    message = str(caught.value)
    assert message.startswith(f"{field}={value!r}: ")
    assert expectation in message
    assert len(message.splitlines()) == 1
