"""The `transformer` workload: a decoder-only language model, and what `seq2seq_transformer` shares with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from workloads.data import lm1b, shakespeare
from workloads.workload import ConfigurationError, Scale, Splits, check_at_least, check_choice

if TYPE_CHECKING:
    import jax

    from workloads.transformer.model import LanguageModel


@dataclasses.dataclass(frozen=True)
class TokenWorkload:
    """Configuration of any Transformer; the fields of the model are described in `workloads.transformer.model`.

    A subclass has `dataset`, `classes`, `model`, `_inputs`, the fields of a batch that the model takes, and `_packing`,
    those that it takes of packed examples.

    Attributes:
      layers: number of layers, of each stack.
      width: of embeddings and of what runs between layers, even.
      heads: of attention; divides the width.
      mlp_width: of the MLP's hidden layer.
      normalization: `before`, `after` or `inside` each sublayer, or `none`.
      rezero: branches are multiplied by scalars that start at 0.
      dropout: rate on embeddings and on sublayers' branches, in training.
      tied_embeddings: the head has the embedding matrix.
      qk_norm: layer norm of queries and keys.
      z_loss: coefficient of the z-loss, in training; Wortsman et al. 2023, arXiv 2309.14322, take 1e-4.
      compute_dtype: `float32` or `bfloat16`, of the activations.
    """

    objective: ClassVar[str] = "loss"
    _inputs: ClassVar[tuple[str, ...]]
    _packing: ClassVar[tuple[str, ...]]

    layers: int = 6
    width: int = 512
    heads: int = 8
    mlp_width: int = 2048
    normalization: str = "before"
    rezero: bool = False
    dropout: float = 0.0
    tied_embeddings: bool = False
    qk_norm: bool = False
    z_loss: float = 0.0
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks every field, so that a bad one is refused before anything runs."""
        for field in ("layers", "heads", "mlp_width"):
            check_at_least(field, getattr(self, field), 1)
        if self.width < 2 or self.width % 2:
            raise ConfigurationError(f"width={self.width!r}: expected an even number of at least 2")
        if self.width % self.heads:
            raise ConfigurationError(f"heads={self.heads!r}: expected a divisor of width={self.width!r}")
        check_choice("normalization", self.normalization, ("before", "after", "inside", "none"))
        if not 0 <= self.dropout < 1:
            raise ConfigurationError(f"dropout={self.dropout!r}: expected at least 0, below 1")
        for field in ("rezero", "tied_embeddings", "qk_norm"):
            check_choice(field, getattr(self, field), (False, True))
        if not 0 <= self.z_loss < float("inf"):
            raise ConfigurationError(f"z_loss={self.z_loss!r}: expected a finite number of at least 0")
        check_choice("compute_dtype", self.compute_dtype, ("float32", "bfloat16"))

    @property
    def _model_fields(self) -> dict[str, Any]:
        """The fields of both models."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(TokenWorkload)}
        del fields["z_loss"]
        return {**fields, "classes": self.classes}

    def initial(self, key: jax.Array) -> tuple[Any, Any]:
        """See `workloads.workload.Workload`; the model state is empty."""
        import jax.numpy as jnp

        ids = [jnp.zeros((1, 1), jnp.int32) for _ in self._inputs]  # no parameter depends on a length
        return self.model.init(key, *ids, train=False)["params"], {}

    def loss(
        self,
        parameters: Any,
        state: Any,
        batch: Mapping[str, jax.Array],
        train: bool,
        key: jax.Array,
        label_smoothing: jax.Array | float = 0.0,
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        """See `workloads.workload.Workload`; means are over tokens whose label is not 0, and `weight` counts them."""
        from workloads.transformer.model import token_loss

        logits = self._logits(parameters, batch, train, key)
        z_loss = self.z_loss if train else 0.0
        loss, metrics = token_loss(logits, batch["label"], batch["weight"], label_smoothing, z_loss)
        return loss, (metrics, state)

    def predictions(self, parameters: Any, state: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        """See `workloads.workload.Workload`; what is predicted where the label is 0 means nothing."""
        import jax.numpy as jnp

        return jnp.argmax(self._logits(parameters, batch, False, None), axis=-1).astype(jnp.int32)

    def _logits(self, parameters: Any, batch: Mapping[str, jax.Array], train: bool, key: jax.Array | None) -> jax.Array:
        rngs = {"dropout": key} if train and self.dropout else None
        inputs = [batch[name] for name in self._inputs]
        packing = {name: batch[name] for name in self._packing if name in batch}
        return self.model.apply({"params": parameters}, *inputs, train=train, rngs=rngs, **packing)


CLASSES = {"shakespeare": shakespeare.CLASSES, "lm1b": lm1b.CLASSES}
"""Data set to number of symbols, padding included."""


@dataclasses.dataclass(frozen=True)
class Transformer(TokenWorkload):
    """Configuration of a language model: of every symbol of a window it predicts the next.

    Attributes:
      length: symbols of a window, or of an example of packed sentences.
      dataset: `shakespeare`, of characters, or `lm1b`, of subwords.
    """

    name: ClassVar[str] = "transformer"
    _inputs: ClassVar[tuple[str, ...]] = ("input",)
    _packing: ClassVar[tuple[str, ...]] = ("segment", "position")

    length: int = 128
    dataset: str = "lm1b"

    def __post_init__(self) -> None:
        """Checks every field, so that a bad one is refused before anything runs."""
        super().__post_init__()
        check_at_least("length", self.length, 1)
        check_choice("dataset", self.dataset, tuple(CLASSES))

    @property
    def classes(self) -> int:
        """Number of symbols, padding included."""
        return CLASSES[self.dataset]

    def data_hashes(self) -> dict[str, str]:
        """See `workloads.workload.Workload`."""
        if self.dataset == "lm1b":
            return lm1b.hashes()
        shakespeare.find()
        return {"shakespeare": shakespeare.SHA256}

    def data(self, split_seed: int) -> Splits:
        """See `workloads.workload.Workload`; the splits of `lm1b` are the published ones, whatever the seed."""
        if self.dataset == "lm1b":
            return lm1b.streams(self.length)
        return shakespeare.splits(split_seed, self.length)

    @cached_property
    def model(self) -> LanguageModel:
        """The Flax module."""
        from workloads.transformer.model import LanguageModel

        return LanguageModel(**self._model_fields)


HYPERPARAMETERS = {
    "learning_rate": 3e-3,
    "warmup_steps": 100,
    "weight_decay": 0.0,
    "beta1": 0.9,
    "beta2": 0.98,
    "epsilon": 1e-9,
}

SCALES = {
    "smoke": Scale(  # of shorter windows some are in both splits, since names and phrases return
        Transformer(2, 16, 2, 32, length=48, dataset="shakespeare"),
        8,
        6,
        256,
        {**HYPERPARAMETERS, "warmup_steps": 2},
        "adam",
        "cosine",
    ),
    "laptop": Scale(
        Transformer(2, 128, 4, 512, length=64, dataset="shakespeare"), 16, 1900, 256, HYPERPARAMETERS, "adam", "cosine"
    ),
    "accelerator": Scale(
        Transformer(dataset="shakespeare"),
        256,
        10_000,
        256,
        {**HYPERPARAMETERS, "learning_rate": 1e-3, "warmup_steps": 1000},
        "adam",
        "cosine",
    ),
    # flax's LM1B example on 8 devices, with the published 3.127 as its loss. It differs in that its rate falls with the
    # root of the step, its dropout is on attention and in the MLP too, and it evaluates sentences unpacked, up to 512
    # tokens of them.
    "paper": Scale(
        Transformer(dropout=0.1),
        256,
        500_000,
        256,
        {**HYPERPARAMETERS, "learning_rate": 1.6e-3, "warmup_steps": 1000, "weight_decay": 0.1},
        "adamw",
        "cosine",
    ),
}
