"""The `seq2seq_transformer` workload: the encoder-decoder of `workloads.transformer.model`."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from workloads.data import cmudict, wmt14
from workloads.transformer.workload import TokenWorkload
from workloads.workload import Scale, Score, Splits, check_choice

if TYPE_CHECKING:
    from workloads.transformer.model import EncoderDecoder

CLASSES = {"cmudict": (cmudict.SOURCE_CLASSES, cmudict.CLASSES), wmt14.NAME: (None, wmt14.CLASSES)}
"""Data set to number of symbols of source and target, padding included; None where both have one vocabulary."""


@dataclasses.dataclass(frozen=True)
class Seq2SeqTransformer(TokenWorkload):
    """Configuration of an encoder-decoder: of every symbol of a target it predicts the next, given a source.

    Source and target have one embedding matrix where they have one vocabulary, else two; the head is tied to the
    target's.

    Attributes:
      dataset: `cmudict`, from spelling to phonemes, or `wmt14_translate/de-en`, from German to English.
    """

    name: ClassVar[str] = "seq2seq_transformer"
    objective: ClassVar[str] = "error"
    _inputs: ClassVar[tuple[str, ...]] = ("source", "input")
    _packing: ClassVar[tuple[str, ...]] = ("segment", "position", "source_segment", "source_position")

    dropout: float = 0.1
    tied_embeddings: bool = True
    dataset: str = wmt14.NAME

    def __post_init__(self) -> None:
        """Checks every field, so that a bad one is refused before anything runs."""
        super().__post_init__()
        check_choice("dataset", self.dataset, tuple(CLASSES))

    @property
    def classes(self) -> int:
        """Number of symbols of the target, padding included."""
        return CLASSES[self.dataset][1]

    def data_hashes(self) -> dict[str, str]:
        """See `workloads.workload.Workload`."""
        if self.dataset == wmt14.NAME:
            return wmt14.hashes()
        cmudict.find()
        return {"cmudict": cmudict.SHA256}

    def data(self, split_seed: int) -> Splits:
        """See `workloads.workload.Workload`; the splits of WMT are the published ones, whatever the seed."""
        if self.dataset == wmt14.NAME:
            return wmt14.streams(wmt14.LENGTH)
        return cmudict.splits(split_seed)

    def score(self, parameters: Any, state: Any) -> Score | None:
        """BLEU on the validation pairs, with sacrebleu's signature; None where nothing is translated."""
        if self.dataset != wmt14.NAME:
            return None
        from workloads.seq2seq_transformer.translation import bleu

        return Score("bleu", *bleu(self, parameters, wmt14.pairs("validation")))

    @cached_property
    def model(self) -> EncoderDecoder:
        """The Flax module."""
        from workloads.transformer.model import EncoderDecoder

        return EncoderDecoder(**self._model_fields, source_classes=CLASSES[self.dataset][0])


HYPERPARAMETERS = {
    "learning_rate": 3e-3,
    "warmup_steps": 100,
    "weight_decay": 0.0,
    "beta1": 0.9,
    "beta2": 0.98,
    "epsilon": 1e-9,
}

SCALES = {
    "smoke": Scale(
        Seq2SeqTransformer(1, 16, 2, 32, dropout=0.0, dataset="cmudict"),
        8,
        60,
        256,
        {**HYPERPARAMETERS, "warmup_steps": 2},
        "adam",
        "cosine",
    ),
    "laptop": Scale(
        Seq2SeqTransformer(2, 96, 4, 384, dropout=0.0, dataset="cmudict"),
        64,
        1400,
        256,
        HYPERPARAMETERS,
        "adam",
        "cosine",
    ),
    # the published base model, but for its norms before the sublayers
    "accelerator": Scale(
        Seq2SeqTransformer(dataset="cmudict"),
        256,
        10_000,
        256,
        {**HYPERPARAMETERS, "learning_rate": 7e-4, "warmup_steps": 1000, "label_smoothing": 0.1},
        "adam",
        "cosine",
    ),
    # The published big model with the hyperparameters of AlgoPerf's target (Dahl et al. 2023, arXiv 2306.07179), a BLEU
    # of 30.85 on newstest2013. There dropout is on attention and in the MLP too, warmup counts in the steps, and the
    # training data are those of WMT17 without pairs of more than 256 tokens.
    "paper": Scale(
        Seq2SeqTransformer(6, 1024, 16, 4096),
        128,
        120_000,
        128,
        {
            "learning_rate": 9.21e-4,
            "warmup_steps": 2000,
            "weight_decay": 0.026842,
            "beta1": 0.850323,
            "beta2": 0.996825,
            "epsilon": 1e-8,
            "label_smoothing": 0.140451,
        },
        "adamw",
        "cosine",
    ),
}
