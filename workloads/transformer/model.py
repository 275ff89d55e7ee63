"""Transformer (Vaswani et al. 2017, arXiv 1706.03762): a language model and an encoder-decoder."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from workloads.cross_entropy import weighted_cross_entropy
from workloads.product import dense_product

_Dense = partial(nn.Dense, dot_general=dense_product)


def sinusoids(length: int, width: int) -> np.ndarray:
    """Computes the published positional encodings: sin at even places, cos at odd ones, float32 (length, width)."""
    angles = np.arange(length)[:, None] / 10_000.0 ** (np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(length, width).astype(np.float32)


def token_loss(
    logits: jax.Array,
    labels: jax.Array,
    weight: jax.Array,
    label_smoothing: jax.Array | float = 0.0,
    z_loss: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes loss and metrics of a batch of sequences, as means over the tokens that are not padding.

    Args:
      logits: float32 (batch, length, classes).
      labels: int32 (batch, length), 0 for padding.
      weight: float32 (batch,), of the examples; each of an example's tokens has it.
      label_smoothing: see `workloads.cross_entropy`.
      z_loss: coefficient of the z-loss.

    Returns:
      What `weighted_cross_entropy` gives; `weight` is the weighted number of tokens.
    """
    token_weight = weight[:, None] * (labels != 0).astype(jnp.float32)
    return weighted_cross_entropy(logits, labels, token_weight, label_smoothing, z_loss)


def _norm(compute_dtype: str, name: str, use_bias: bool = True) -> Callable[[jax.Array], jax.Array]:
    norm = nn.LayerNorm(epsilon=1e-6, use_bias=use_bias, name=name)
    return lambda x: norm(x.astype(jnp.float32)).astype(compute_dtype)


class _Attention(nn.Module):
    """Multi-head attention without biases, as published.

    Attributes:
      heads: number of heads; divides the width.
      qk_norm: layer norm without bias of each head's queries and keys (Dehghani et al. 2023, arXiv 2302.05442).
      compute_dtype: of everything but the softmax.
    """

    heads: int
    qk_norm: bool
    compute_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | np.ndarray, memory: jax.Array | None = None) -> jax.Array:
        """Lets (batch, queries, width) attend to itself or to a memory, (batch, keys, width).

        The mask, boolean (batch or 1, 1, queries or 1, keys), says which keys a query sees.

        One product projects to all that is projected from the same input. LeCun's uniform distribution is then Xavier's
        of each square block.
        """
        width = x.shape[-1]
        project = partial(
            _Dense, use_bias=False, dtype=jnp.dtype(self.compute_dtype), kernel_init=nn.initializers.lecun_uniform()
        )
        if memory is None:
            projected = jnp.split(project(3 * width, name="query_key_value")(x), 3, axis=-1)
        else:
            key_value = project(2 * width, name="key_value")(memory)
            projected = [project(width, name="query")(x), *jnp.split(key_value, 2, axis=-1)]
        query, key, value = (each.reshape(*each.shape[:2], self.heads, width // self.heads) for each in projected)
        if self.qk_norm:
            query = _norm(self.compute_dtype, "query_norm", use_bias=False)(query)
            key = _norm(self.compute_dtype, "key_norm", use_bias=False)(key)
        weights = nn.dot_product_attention_weights(query, key, mask=mask, force_fp32_for_softmax=True)
        # Flax leaves the weights in float32, which strict promotion refuses to multiply by bfloat16.
        # The product's own order; the transpose behind it is cheaper than a product into the other order.
        attended = jnp.einsum("bhqk,bkhd->bhqd", weights.astype(value.dtype), value).transpose(0, 2, 1, 3)
        return project(width, name="out")(attended.reshape(x.shape))


class _MLP(nn.Module):
    width: int
    compute_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = partial(_Dense, dtype=jnp.dtype(self.compute_dtype), kernel_init=nn.initializers.xavier_uniform())
        return dense(x.shape[-1], name="out")(nn.relu(dense(self.width, name="hidden")(x)))


class _Transformer(nn.Module):
    """What the two models share.

    Embeddings start at standard deviation width^-1/2 and are multiplied by the root of the width on their way in, as
    published. The head starts so that logits of a normalised input have standard deviation width^-1/2: with a kernel
    of 1 / width, or, tied, with embeddings divided by the root of the width. Published tied heads do not divide, and
    favour the symbol just read so much that the loss starts far above that of guessing.

    Attributes:
      layers: number of layers, of each stack.
      width: of embeddings and of what runs between layers, even.
      heads: of attention; divides the width.
      mlp_width: of the MLP's hidden layer.
      classes: number of symbols that are predicted, with padding.
      normalization: of a sublayer f: `before`, x + f(norm(x)); `after`, norm(x + f(x)), as published; `inside`,
        x + norm(f(x)); `none`. With `before` and `inside` each stack ends in one more norm.
      rezero: the branch is multiplied by a scalar that starts at 0 (Bachlechner et al. 2020, arXiv 2003.04887).
      dropout: rate, in training, of the branch of every sublayer and of the embeddings with their positions: the
        published places. Attention probabilities and the MLP's hidden layer have none.
      tied_embeddings: the head has the embedding matrix, and no bias.
      qk_norm: layer norm of queries and keys.
      compute_dtype: of activations, `float32` or `bfloat16`; parameters, norms' statistics, softmax, head and logits
        are float32.
    """

    layers: int
    width: int
    heads: int
    mlp_width: int
    classes: int
    normalization: str
    rezero: bool
    dropout: float
    tied_embeddings: bool
    qk_norm: bool
    compute_dtype: str

    def _embedding(self, classes: int, name: str) -> nn.Embed:
        return nn.Embed(classes, self.width, embedding_init=nn.initializers.normal(self.width**-0.5), name=name)

    def _read(self, embedding: nn.Embed, ids: jax.Array, train: bool, position: jax.Array | None) -> jax.Array:
        """Maps ids (batch, length) to the input of a stack, (batch, length, width)."""
        encodings = sinusoids(ids.shape[1], self.width)
        placed = encodings[None] if position is None else jnp.asarray(encodings)[position]
        x = embedding(ids) * self.width**0.5 + placed
        return self._drop(x.astype(self.compute_dtype), train)

    def _drop(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dropout(self.dropout, deterministic=False)(x) if train and self.dropout else x

    def _stack(
        self,
        x: jax.Array,
        name: str,
        train: bool,
        mask: jax.Array | np.ndarray,
        memory: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
    ) -> jax.Array:
        for layer in range(self.layers):
            x = self._sublayer(x, self._attention(f"{name}{layer}_self_attention"), train, mask)
            if memory is not None:
                attention = self._attention(f"{name}{layer}_cross_attention")
                x = self._sublayer(x, attention, train, memory_mask, memory)
            x = self._sublayer(x, _MLP(self.mlp_width, self.compute_dtype, name=f"{name}{layer}_mlp"), train)
        if self.normalization in ("before", "inside"):
            x = _norm(self.compute_dtype, f"{name}_norm")(x)
        return x

    def _attention(self, name: str) -> _Attention:
        return _Attention(self.heads, self.qk_norm, self.compute_dtype, name=name)

    def _sublayer(self, x: jax.Array, function: nn.Module, train: bool, *arguments: jax.Array | None) -> jax.Array:
        plain = self.normalization == "none"
        normalize = (lambda y: y) if plain else _norm(self.compute_dtype, f"{function.name}_norm")
        y = function(normalize(x) if self.normalization == "before" else x, *arguments)
        if self.normalization == "inside":
            y = normalize(y)
        y = self._drop(y, train)
        if self.rezero:
            y = y * self.param(f"{function.name}_rezero", nn.initializers.zeros, ()).astype(y.dtype)
        return normalize(x + y) if self.normalization == "after" else x + y

    def _head(self, x: jax.Array, embedding: nn.Embed) -> jax.Array:
        x = x.astype(jnp.float32)
        if self.tied_embeddings:
            return embedding.attend(x * self.width**-0.5)
        return _Dense(self.classes, kernel_init=nn.initializers.normal(1 / self.width), name="head")(x)


def _causal(length: int, segment: jax.Array | None) -> jax.Array | np.ndarray:
    """Mask of the keys up to each query and, of packed sequences, of its own segment."""
    causal = np.tri(length, dtype=bool)[None, None]
    return causal if segment is None else _same(segment, segment) & causal


def _same(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Mask of the keys of each query's segment; padding is a segment of its own."""
    return queries[:, None, :, None] == keys[:, None, None, :]


class LanguageModel(_Transformer):
    """Decoder-only model of the next symbol; padding behind a sequence needs no mask, since attention is causal."""

    @nn.compact
    def __call__(
        self, inputs: jax.Array, train: bool, segment: jax.Array | None = None, position: jax.Array | None = None
    ) -> jax.Array:
        """Maps symbols to logits of the next.

        Args:
          inputs: int32 (batch, length).
          train: whether to drop out, drawing from `dropout`.
          segment: of packed sequences, int32 (batch, length): which of them a symbol belongs to.
          position: of packed sequences, int32 (batch, length): place in the sequence, from 0.

        Returns:
          float32 (batch, length, classes).
        """
        embedding = self._embedding(self.classes, "embedding")
        x = self._read(embedding, inputs, train, position)
        x = self._stack(x, "decoder", train, _causal(inputs.shape[1], segment))
        return self._head(x, embedding)


class EncoderDecoder(_Transformer):
    """Model of the next symbol of a target, given a source.

    Attributes:
      source_classes: number of symbols of the source, with padding, id 0; None for one vocabulary and, as published,
        one embedding matrix of source and target.
    """

    source_classes: int | None

    @nn.compact
    def __call__(
        self,
        source: jax.Array,
        inputs: jax.Array,
        train: bool,
        segment: jax.Array | None = None,
        position: jax.Array | None = None,
        source_segment: jax.Array | None = None,
        source_position: jax.Array | None = None,
        last: jax.Array | None = None,
    ) -> jax.Array:
        """Maps a source, int32 (batch, source length), and the target so far, int32 (batch, length), to logits.

        Args:
          source: no symbol of either stack attends to its padding, id 0.
          inputs: the target, shifted by one.
          train: whether to drop out, drawing from `dropout`.
          segment: of packed pairs, int32 (batch, length): which of them a symbol of the target belongs to.
          position: of packed pairs, int32 (batch, length): place in the target, from 0.
          source_segment: the same of the source, (batch, source length).
          source_position: the same of the source, (batch, source length).
          last: int32 (), the one place whose logits are wanted; all where it is left out.

        Returns:
          float32 (batch, length or 1, classes).
        """
        embedding = self._embedding(self.classes, "embedding")
        source_embedding = embedding
        if self.source_classes is not None:
            source_embedding = self._embedding(self.source_classes, "source_embedding")
        if source_segment is None:
            seen = seen_by_target = (source != 0)[:, None, None]
        else:
            seen, seen_by_target = _same(source_segment, source_segment), _same(segment, source_segment)
        x = self._read(source_embedding, source, train, source_position)
        memory = self._stack(x, "encoder", train, seen)
        x = self._read(embedding, inputs, train, position)
        x = self._stack(x, "decoder", train, _causal(inputs.shape[1], segment), memory, seen_by_target)
        if last is not None:
            x = jax.lax.dynamic_slice_in_dim(x, last, 1, axis=1)
        return self._head(x, embedding)
