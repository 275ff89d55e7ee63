"""Translation by a trained encoder-decoder, by beam search, and its BLEU (Papineni et al. 2002, P02-1040)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads.data import wmt14
from workloads.data.subwords import BEGIN, END, PADDING
from workloads.seq2seq_transformer.workload import Seq2SeqTransformer
from workloads.workload import ConfigurationError

BEAMS = 4

LENGTH_PENALTY = 0.6

EXTRA_TOKENS = 50
"""How much longer than its source a translation may be; with the two above as published."""

BATCH_SIZE = 64
"""Sentences that are translated at a time."""


def bleu(workload: Seq2SeqTransformer, parameters: Any, pairs: Sequence[tuple[str, str]]) -> tuple[float, str]:
    """Computes the corpus BLEU of the translations of some sentences.

    Args:
      workload: on `wmt14_translate/de-en`.
      parameters: of its model.
      pairs: German sentences and their translations, such as `wmt14.pairs("validation")`.

    Returns:
      The score, 0 to 100, of sacrebleu (Post 2018, W18-6319) with its defaults, and sacrebleu's signature of them.

    Raises:
      ConfigurationError: the workload translates nothing.
      DataError: from the vocabulary.
    """
    from sacrebleu.metrics import BLEU

    german, english = zip(*pairs, strict=True)
    metric = BLEU()
    score = metric.corpus_score(translate(workload, parameters, german), [list(english)]).score
    return score, str(metric.get_signature())


def translate(workload: Seq2SeqTransformer, parameters: Any, sentences: Sequence[str]) -> list[str]:
    """Translates German sentences to English; raises as `bleu` does."""
    if workload.dataset != wmt14.NAME:
        raise ConfigurationError(f"dataset={workload.dataset!r}: expected {wmt14.NAME}, whose sentences are text")
    vocabulary = wmt14.vocabulary()
    sources = [ids[: wmt14.LENGTH] for ids in vocabulary.encode(list(sentences))]
    translations = [""] * len(sources)
    by_length = sorted(range(len(sources)), key=lambda i: len(sources[i]))  # so that little is padding
    for start in range(0, len(sources), BATCH_SIZE):
        rows = by_length[start : start + BATCH_SIZE]
        length = max(8, 1 << (len(sources[rows[-1]]) - 1).bit_length())  # few lengths: each is compiled
        batch = np.full((BATCH_SIZE, length), PADDING, np.int32)
        for row, i in enumerate(rows):
            batch[row, : len(sources[i])] = sources[i]
        for i, ids in zip(rows, np.asarray(_compiled(workload)(parameters, batch)), strict=False):
            translations[i] = vocabulary.decode(ids)
    return translations


@lru_cache(maxsize=1)
def _compiled(workload: Seq2SeqTransformer) -> Any:
    return jax.jit(lambda parameters, source: beam_search(workload, parameters, source))


def beam_search(workload: Seq2SeqTransformer, parameters: Any, source: jax.Array) -> jax.Array:
    """Finds the most probable target of each source by beam search of width 4.

    A hypothesis is ranked by log p / ((5 + length) / 6)^0.6 (Wu et al. 2016, arXiv 1609.08144), whether it has ended or
    not, and an ended one keeps its place in the beam for as long as it ranks among the best. Each step reads the whole
    target so far, which costs time but no second form of the model.

    Args:
      workload: gives the model.
      parameters: of the model.
      source: int32 (batch, source length), padded with 0.

    Returns:
      int32 (batch, source length + 50): each target, `END` included where it ended in time, padded with 0.
    """
    batch, length = source.shape[0], source.shape[1] + EXTRA_TOKENS
    repeated = jnp.repeat(source, BEAMS, axis=0)

    def search(carry: tuple) -> tuple:
        step, targets, log_p, ended = carry
        inputs = jnp.concatenate([jnp.full((batch, BEAMS, 1), BEGIN, jnp.int32), targets[..., :-1]], axis=-1)
        inputs = inputs.reshape(batch * BEAMS, length)
        logits = workload.model.apply({"params": parameters}, repeated, inputs, train=False, last=step)
        following = jax.nn.log_softmax(logits.reshape(batch, BEAMS, -1)).at[..., PADDING].set(-jnp.inf)
        # An ended hypothesis goes on in one way: with padding, at no cost.
        ending = jnp.full(following.shape[-1], -jnp.inf).at[PADDING].set(0.0)
        extended = log_p[..., None] + jnp.where(ended[..., None], ending, following)
        lengths = jnp.where(ended, jnp.count_nonzero(targets, axis=-1), step + 1).astype(jnp.float32)
        ranked = extended / (((5 + lengths) / 6) ** LENGTH_PENALTY)[..., None]
        _, best = jax.lax.top_k(ranked.reshape(batch, -1), BEAMS)
        beam, symbol = jnp.divmod(best, following.shape[-1])
        targets = jnp.take_along_axis(targets, beam[..., None], axis=1).at[..., step].set(symbol)
        log_p = jnp.take_along_axis(extended.reshape(batch, -1), best, axis=1)
        ended = jnp.take_along_axis(ended, beam, axis=1) | (symbol == END)
        return step + 1, targets, log_p, ended

    def goes_on(carry: tuple) -> jax.Array:
        step, _, _, ended = carry
        return (step < length) & ~jnp.all(ended)

    # All beams begin alike, so that only the first may branch.
    log_p = jnp.broadcast_to(jnp.where(jnp.arange(BEAMS) == 0, 0.0, -jnp.inf), (batch, BEAMS))
    targets = jnp.zeros((batch, BEAMS, length), jnp.int32)
    ended = jnp.broadcast_to(jnp.all(source == PADDING, axis=1)[:, None], (batch, BEAMS))  # rows that fill the batch
    _, targets, _, _ = jax.lax.while_loop(goes_on, search, (jnp.int32(0), targets, log_p, ended))
    return targets[:, 0]
