"""The `resnet` workload: ResNet v1.5 and v2 on image classification, at ImageNet's size or narrow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from workloads.data import imagenet2012, mnist5k, photo_patches, photo_patches_jpeg
from workloads.data.training_part import check_training_part, training_part
from workloads.workload import ConfigurationError, Scale, Splits, check_at_least, check_choice

if TYPE_CHECKING:
    import jax

    from workloads.classification import Channels
    from workloads.resnet.model import ResNet as Model

IMAGENET_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Published depth to blocks of each group; from 50 layers on they are bottlenecks."""

DATA_SETS = {"imagenet2012": (1000, 3), "photo_patches": (10, 3), "photo_patches_jpeg": (10, 3), "mnist5k": (10, 1)}
"""Data set to number of classes and of channels."""

_ARRAYS = {"photo_patches": photo_patches, "mnist5k": mnist5k}
_STREAMS = {"imagenet2012": imagenet2012, "photo_patches_jpeg": photo_patches_jpeg}


@dataclasses.dataclass(frozen=True)
class ResNet:
    """Configuration of a ResNet; the fields of the model are described in `workloads.resnet.model`.

    Attributes:
      depth: number of weighted layers. With the stem `imagenet` 18 or 34 (basic blocks), 50, 101, 152 or 200
        (bottlenecks), in four groups; with the stem `small` 6n + 2, in three groups of n basic blocks (He et al. 2015,
        section 4.2, with 1x1 convolutions instead of padded identities where a shortcut changes shape).
      version: `v1.5` or `v2`.
      stem: `imagenet`, for sides of at least 32, or `small`, for sides of at least 4.
      width: channels of the first group, before the bottleneck's 4 times as many.
      norm_on_residual: one more batch norm after each residual addition (figure 9). In v1.5 the gradient then explodes
        with depth, provided that the branches do not start at 0: norm 2497 and 672 at initialisation against 8.3 and
        6.7 without (depth 122, width 8, 16x16 `photo_patches`, two seeds); in v2 16 and 11 against 1.3 and .8.
      zero_init_last_scale: every residual branch starts at 0 (Goyal et al. 2017, arXiv 1706.02677): the scale of its
        last norm in v1.5; in v2, where the ReLU behind that norm would give 0 for ever, the kernel of its last
        convolution.
      batch_norm_momentum: share of the old running average that each training step keeps.
      virtual_batch_size: the most examples that share the statistics of a norm in training, see
        `workloads.batch_norm`; 0 for the whole batch.
      compute_dtype: `float32` or `bfloat16`, of the activations.
      dataset: `imagenet2012`, `photo_patches`, `photo_patches_jpeg` (random resized crops of the same photographs, read
        as ImageNet is) or `mnist5k`.
      side: side of the square images.
      training_examples: how many of the training examples of `photo_patches` or `mnist5k`, 0 for all.
      label_noise: share of their labels that are replaced, see `workloads.data.training_part`.
      convolution: `xla`, `matrix_product` or `by_backend` (the matrix product on CPU, XLA elsewhere).
    """

    name: ClassVar[str] = "resnet"
    objective: ClassVar[str] = "error"

    depth: int = 50
    version: str = "v1.5"
    stem: str = "imagenet"
    width: int = 64
    norm_on_residual: bool = False
    zero_init_last_scale: bool = True
    batch_norm_momentum: float = 0.9
    virtual_batch_size: int = 0
    compute_dtype: str = "float32"
    dataset: str = "imagenet2012"
    side: int = 224
    training_examples: int = 0
    label_noise: float = 0.0
    convolution: str = "by_backend"

    def __post_init__(self) -> None:
        """Checks every field, so that a bad one is refused before anything runs."""
        check_choice("version", self.version, ("v1.5", "v2"))
        check_choice("stem", self.stem, ("imagenet", "small"))
        if self.stem == "imagenet" and self.depth not in IMAGENET_BLOCKS:
            known = ", ".join(map(str, IMAGENET_BLOCKS))
            raise ConfigurationError(f"depth={self.depth!r}: expected one of {known} with stem='imagenet'")
        if self.stem == "small" and (self.depth < 8 or (self.depth - 2) % 6):
            raise ConfigurationError(
                f"depth={self.depth!r}: expected 6n + 2 with n >= 1, such as 8, 14 or 20, with stem='small'"
            )
        check_at_least("width", self.width, 1)
        check_choice("norm_on_residual", self.norm_on_residual, (False, True))
        check_choice("zero_init_last_scale", self.zero_init_last_scale, (False, True))
        if not 0 <= self.batch_norm_momentum < 1:
            raise ConfigurationError(f"batch_norm_momentum={self.batch_norm_momentum!r}: expected at least 0, below 1")
        check_at_least("virtual_batch_size", self.virtual_batch_size, 0)
        check_choice("compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        check_choice("dataset", self.dataset, tuple(DATA_SETS))
        smallest = 32 if self.stem == "imagenet" else 4  # which leaves one position for the pool
        if not self.side >= smallest:
            raise ConfigurationError(f"side={self.side!r}: expected at least {smallest} with stem={self.stem!r}")
        if self.dataset.startswith("photo_patches") and not 8 <= self.side <= photo_patches.TILE:
            raise ConfigurationError(f"side={self.side!r}: expected 8 to {photo_patches.TILE} of {self.dataset}")
        examples = _ARRAYS[self.dataset].TRAINING_EXAMPLES if self.dataset in _ARRAYS else 0
        check_training_part(self.training_examples, self.label_noise, examples, self.dataset)
        check_choice("convolution", self.convolution, ("xla", "matrix_product", "by_backend"))

    @property
    def classes(self) -> int:
        """Number of classes of the data set."""
        return DATA_SETS[self.dataset][0]

    def data_hashes(self) -> dict[str, str]:
        """See `workloads.workload.Workload`."""
        if self.dataset in _STREAMS:
            return {self.dataset: _STREAMS[self.dataset].content_hash()}
        source = _ARRAYS[self.dataset]
        source.find()
        return {self.dataset: source.SHA256}

    def data(self, split_seed: int) -> Splits:
        """See `workloads.workload.Workload`."""
        if self.dataset in _STREAMS:
            return _STREAMS[self.dataset].streams(split_seed, self.side)
        splits = _ARRAYS[self.dataset].splits(split_seed, self.side)
        return training_part(splits, split_seed, self.training_examples, self.label_noise, self.classes)

    @property
    def _channels(self) -> Channels | None:
        """What streamed images, which are uint8, are standardised by."""
        source = _STREAMS.get(self.dataset)
        return source and (source.MEAN, source.DEVIATION)

    @cached_property
    def model(self) -> Model:
        """The Flax module."""
        import jax

        from workloads.convolution import lowering_of
        from workloads.resnet.model import ResNet as Model

        return Model(
            blocks=IMAGENET_BLOCKS[self.depth] if self.stem == "imagenet" else ((self.depth - 2) // 6,) * 3,
            bottleneck=self.stem == "imagenet" and self.depth >= 50,
            version=self.version,
            stem=self.stem,
            width=self.width,
            norm_on_residual=self.norm_on_residual,
            zero_init_last_scale=self.zero_init_last_scale,
            classes=self.classes,
            batch_norm_momentum=self.batch_norm_momentum,
            virtual_batch_size=self.virtual_batch_size,
            compute_dtype=self.compute_dtype,
            convolution=lowering_of(self.convolution, jax.default_backend()),
        )

    def initial(self, key: jax.Array) -> tuple[Any, Any]:
        """See `workloads.workload.Workload`; the model state holds the running batch statistics."""
        import jax.numpy as jnp

        shape = (1, self.side, self.side, DATA_SETS[self.dataset][1])
        variables = self.model.init(key, jnp.zeros(shape, jnp.float32), train=False)
        return variables["params"], variables["batch_stats"]

    def loss(
        self,
        parameters: Any,
        state: Any,
        batch: Mapping[str, jax.Array],
        train: bool,
        key: jax.Array,
        label_smoothing: jax.Array | float = 0.0,
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        """See `workloads.workload.Workload`."""
        from workloads.classification import image_loss

        del key  # nothing here is random
        return image_loss(self.model, parameters, state, batch, train, label_smoothing, self._channels)

    def predictions(self, parameters: Any, state: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        """See `workloads.workload.Workload`."""
        from workloads.classification import image_predictions

        return image_predictions(self.model, parameters, state, batch, self._channels)


HYPERPARAMETERS = {"learning_rate": 0.2, "momentum": 0.9, "weight_decay": 5e-4, "warmup_steps": 0}

# Goyal et al. 2017: a rate of .1 for a batch of 256, after a warmup.
GOYAL = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "warmup_steps": 100}

# Dahl et al. 2023, arXiv 2306.07179: 186,667 steps in total.
DAHL = {
    "learning_rate": 4.1319,
    "momentum": 0.9275,
    "weight_decay": 5.67e-6,
    "label_smoothing": 0.2,
    "warmup_steps": 6999,
}

SMALL = ResNet(8, stem="small", width=8, dataset="photo_patches", side=16)

SCALES = {
    "smoke": Scale(dataclasses.replace(SMALL, side=8), 16, 6, 250, HYPERPARAMETERS, schedule="cosine"),
    # best validation errors .117, .097 and .101 with seeds 0, 1 and 2, in 10 to 15 s each on two cores
    "laptop": Scale(SMALL, 64, 1000, 250, HYPERPARAMETERS, schedule="cosine"),
    "accelerator": Scale(ResNet(dataset="photo_patches", side=64), 256, 1900, 1000, GOYAL, schedule="cosine"),
    # Published validation error .22569. Flax's example reaches .2328 in 100 epochs, 5 of them warmup: batch_size=512
    # steps=237717 warmup_steps=12511 optimizer=nesterov learning_rate=0.2 momentum=0.9 weight_decay=1e-4
    # label_smoothing=0, each with --set.
    "paper": Scale(ResNet(), 1024, 186_667 - 6999, 1000, DAHL, schedule="cosine"),
}
