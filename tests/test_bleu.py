"""`playbook train` of a translation, on made-up pairs of WMT14's schema."""

import pytest

from harness import train as driver
from harness.training.trial import Trial, derive_seeds
from workloads.data import synthetic_text, wmt14
from workloads.seq2seq_transformer import translation
from workloads.seq2seq_transformer import workload as module
from workloads.seq2seq_transformer.workload import SCALES, Seq2SeqTransformer

CLASSES = 320


@pytest.fixture
def trial(tmp_path, monkeypatch):
    monkeypatch.setattr(wmt14, "CLASSES", CLASSES)
    monkeypatch.setitem(module.CLASSES, wmt14.NAME, (None, CLASSES))
    monkeypatch.setattr(wmt14, "LENGTH", 48)
    monkeypatch.setattr(translation, "EXTRA_TOKENS", 8)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    held_out = synthetic_text.pairs(64, first=10_000)
    synthetic_text.prepare_wmt14(tmp_path / "data", synthetic_text.pairs(1000), held_out)
    return Trial(
        workload=Seq2SeqTransformer(1, 32, 2, 64, dropout=0.0),
        batch_size=8,
        steps=20,
        evaluation_steps=(10, 20),
        evaluation_batch_size=8,
        optimizer="adamw",
        schedule="constant",
        hyperparameters={**SCALES["paper"].hyperparameters, "learning_rate": 1e-2, "warmup_steps": 0},
        seeds=derive_seeds(0, 0),
    )


def test_a_translation_ends_with_bleu(trial, tmp_path):
    result = driver.train(trial, tmp_path / "run", best=1, fresh=False, command="")
    assert result["status"] == "complete"
    assert 0 <= result["results"]["best_bleu"] <= 100
    assert result["scores"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
