"""Two steps of scale `paper` on made-up data of the published schemas.

Wide ResNet runs at its full shapes. A batch of the others does not fit into a laptop's memory (the language model takes
more than 24 GB): they run with a part of it, the model and its inputs whole, and the whole is traced by
`workloads.contract`.
"""

import dataclasses

import numpy as np
import pytest

from harness import train as driver
from workloads.data import synthetic_cifar, synthetic_imagenet, synthetic_text
from workloads.seq2seq_transformer import translation

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


def two_steps(workload, folder, **settings):
    settings = {"steps": "2", "warmup_steps": "0", "evaluation_batch_size": "16", **settings}
    trial = dataclasses.replace(driver.plan(workload, "paper", 0, settings), evaluation_steps=(2,))
    result = driver.train(trial, folder, best=1, fresh=False, command="")
    assert result["status"] == "complete"
    assert result["results"]["best_step"] == 2
    assert np.isfinite(result["results"]["final_loss"])
    return result


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_wide_resnet_28_10_whole(data, tmp_path, name):
    synthetic_cifar.prepare(data, name, train=150, test=4)
    two_steps("wide_resnet", tmp_path / "run", dataset=name)


def test_resnet_50_at_a_32nd_of_its_batch(data, tmp_path):
    synthetic_imagenet.prepare(data, train=40, validation=16)
    two_steps("resnet", tmp_path / "run", batch_size="32")


def test_transformer_on_lm1b_at_an_eighth_of_its_batch(data, tmp_path):
    sentences = [english for _, english in synthetic_text.pairs(2000)]
    synthetic_text.prepare_lm1b(data, sentences[:-400], sentences[-400:])
    two_steps("transformer", tmp_path / "run", batch_size="32")


def test_big_transformer_on_wmt14_at_a_16th_of_its_batch(data, tmp_path, monkeypatch):
    monkeypatch.setattr(translation, "BATCH_SIZE", 4)  # of 64 the beam search alone takes most of an hour
    monkeypatch.setattr(translation, "EXTRA_TOKENS", 4)
    synthetic_text.prepare_wmt14(data, synthetic_text.pairs(1500), synthetic_text.pairs(4, first=2000))
    result = two_steps("seq2seq_transformer", tmp_path / "run", batch_size="8")
    assert 0 <= result["results"]["best_bleu"] <= 100
