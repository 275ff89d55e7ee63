import jax
import numpy as np
import optax
import pytest

from workloads.contract import compile_quickly
from workloads.data import synthetic_text, wmt14
from workloads.data.subwords import BEGIN, END
from workloads.seq2seq_transformer import translation
from workloads.seq2seq_transformer import workload as workload_module
from workloads.seq2seq_transformer.translation import beam_search, bleu, translate
from workloads.seq2seq_transformer.workload import Seq2SeqTransformer
from workloads.workload import ConfigurationError

CLASSES = 320
LENGTH = 48
VALIDATION = synthetic_text.pairs(64, first=10_000)


@pytest.fixture(scope="module", autouse=True)
def small_vocabulary():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wmt14, "CLASSES", CLASSES)
        patch.setitem(workload_module.CLASSES, wmt14.NAME, (None, CLASSES))
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("wmt14")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(root / "data"))
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        synthetic_text.prepare_wmt14(root / "data", synthetic_text.pairs(2000), VALIDATION)
        yield


def build(**fields):
    return Seq2SeqTransformer(**{"layers": 1, "width": 32, "heads": 2, "mlp_width": 64, "dropout": 0.0, **fields})


def trained(workload, steps):
    """Parameters after some steps on packed pairs."""
    train, optimizer = wmt14.streams(LENGTH).train, optax.adam(1e-2)
    parameters, _ = compile_quickly(workload.initial)(jax.random.key(0))
    state = optimizer.init(parameters)

    @compile_quickly
    def step(parameters, state, batch):
        gradient = jax.grad(lambda p: workload.loss(p, {}, batch, True, None)[0])(parameters)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, updates), state

    for rows in np.random.default_rng(0).integers(len(train.records), size=(steps, 16)):
        examples = [train.prepare(train.records[row], None) for row in rows]
        batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
        parameters, state = step(parameters, state, {**batch, "weight": np.ones(len(rows), np.float32)})
    return parameters


def test_a_trained_model_translates(prepared, monkeypatch):
    monkeypatch.setattr(translation, "EXTRA_TOKENS", 8)
    workload = build()
    untrained, signature = bleu(workload, trained(workload, 0), VALIDATION)
    parameters = trained(workload, 300)
    score, again = bleu(workload, parameters, VALIDATION)
    assert untrained < 5
    assert score > 40
    assert signature == again
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def searched(log_probabilities, length):
    """Beam search of width 4 as the docstring says it, one hypothesis at a time."""

    def rank(hypothesis):
        log_p, ids = hypothesis
        return log_p / ((5 + len(ids)) / 6) ** 0.6

    beam = [(0.0, [])]
    for _ in range(length):
        candidates = []
        for log_p, ids in beam:
            if ids and ids[-1] == END:
                candidates.append((log_p, ids))
                continue
            following = log_probabilities(ids)
            candidates += [(log_p + following[symbol], [*ids, symbol]) for symbol in range(1, len(following))]
        beam = sorted(candidates, key=rank, reverse=True)[:4]
    return beam[0][1]


def test_beam_search_is_that_of_one_hypothesis_at_a_time(monkeypatch):
    monkeypatch.setattr(translation, "EXTRA_TOKENS", 3)
    workload = build(width=16, mlp_width=32)
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(workload.initial, jax.random.key(0))[0]
    parameters = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), shapes)
    parameters["decoder_norm"]["bias"] *= 0  # it would favour one symbol everywhere
    parameters["embedding"]["embedding"][END] *= 1.7  # some targets end, and some not
    source = random.integers(3, CLASSES, (6, 5), dtype=np.int32)
    source[1, 3:] = 0
    source[5] = 0  # fills a batch
    apply = compile_quickly(lambda source, inputs: workload.model.apply({"params": parameters}, source, inputs, False))

    def log_probabilities(row, ids):
        inputs = np.zeros((1, 8), np.int32)
        inputs[0, : len(ids) + 1] = [BEGIN, *ids]
        return np.asarray(jax.nn.log_softmax(apply(source[row : row + 1], inputs)[0, len(ids)]), np.float64)

    found = np.asarray(compile_quickly(lambda source: beam_search(workload, parameters, source))(source))
    expected = [searched(lambda ids, row=row: log_probabilities(row, ids), 8) for row in range(5)]
    assert {expected[row][-1] == END for row in range(5)} == {True, False}
    assert len({len(ids) for ids in expected}) > 2
    np.testing.assert_array_equal(found, [np.pad(ids, (0, 8 - len(ids))) for ids in [*expected, []]])


def test_only_text_is_translated():
    with pytest.raises(ConfigurationError, match=r"^dataset='cmudict': expected wmt14_translate/de-en, "):
        translate(build(dataset="cmudict"), {}, ["zwei"])
