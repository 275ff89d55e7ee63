"""The `wide_resnet` workload: Wide ResNet d-k on image classification, with figure 4's strides and heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from workloads.data import cifar, mnist5k
from workloads.data.training_part import check_training_part, training_part
from workloads.workload import ConfigurationError, Scale, Splits, check_at_least, check_choice

if TYPE_CHECKING:
    import jax

    from workloads.classification import Channels
    from workloads.wide_resnet.model import WideResNet as Model


@dataclasses.dataclass(frozen=True)
class WideResNet:
    """Configuration of Wide ResNet d-k; the fields of the model are described in `workloads.wide_resnet.model`.

    Attributes:
      depth: d, of the form 6n + 4.
      width: k, the widening factor.
      group_strides: stride of the first block of each group.
      head: `flatten`, `flatten_rescaled` or `global_pool`.
      batch_norm_momentum: .99 at published length, .9 in runs of a few hundred steps.
      virtual_batch_size: the most examples that share the statistics of a norm in training, see
        `workloads.batch_norm`; 0 for the whole batch.
      compute_dtype: `float32` or `bfloat16`, of the activations.
      dataset: `mnist5k`, `cifar10` or `cifar100`.
      side: side of the square images, at least 4; that of CIFAR is 32.
      training_examples: how many of the training examples of `mnist5k`, 0 for all.
      label_noise: share of the training labels of `mnist5k` that are replaced, see `workloads.data.training_part`.
      convolution: `xla`, `matrix_product` or `by_backend` (the matrix product on CPU, XLA elsewhere).
    """

    name: ClassVar[str] = "wide_resnet"
    objective: ClassVar[str] = "error"

    depth: int = 28
    width: int = 10
    group_strides: tuple[int, int, int] = (1, 2, 2)
    head: str = "flatten"
    batch_norm_momentum: float = 0.99
    virtual_batch_size: int = 0
    compute_dtype: str = "float32"
    dataset: str = "cifar10"
    side: int = 32
    training_examples: int = 0
    label_noise: float = 0.0
    convolution: str = "by_backend"

    def __post_init__(self) -> None:
        """Checks every field, so that a bad one is refused before anything runs."""
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ConfigurationError(f"depth={self.depth!r}: expected 6n + 4 with n >= 1, such as 10, 16 or 28")
        check_at_least("width", self.width, 1)
        check_at_least("side", self.side, 4)
        if len(self.group_strides) != 3 or min(self.group_strides) < 1:
            raise ConfigurationError(f"group_strides={self.group_strides!r}: expected three numbers of at least 1")
        check_choice("head", self.head, ("flatten", "flatten_rescaled", "global_pool"))
        if not 0 <= self.batch_norm_momentum < 1:
            raise ConfigurationError(f"batch_norm_momentum={self.batch_norm_momentum!r}: expected at least 0, below 1")
        check_at_least("virtual_batch_size", self.virtual_batch_size, 0)
        check_choice("compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        check_choice("dataset", self.dataset, ("mnist5k", *cifar.CLASSES))
        if self.dataset in cifar.CLASSES and self.side != cifar.SIDE:
            raise ConfigurationError(f"side={self.side!r}: expected {cifar.SIDE} of {self.dataset}")
        examples = mnist5k.TRAINING_EXAMPLES if self.dataset == "mnist5k" else 0
        check_training_part(self.training_examples, self.label_noise, examples, self.dataset)
        check_choice("convolution", self.convolution, ("xla", "matrix_product", "by_backend"))
        size = self.side
        for stride in self.group_strides:
            size = -(-size // stride)
        if self.head != "global_pool" and size < self.side // 4:
            raise ConfigurationError(
                f"group_strides={self.group_strides!r}: leave a {size}x{size} map, too small for the "
                f"{self.side // 4}x{self.side // 4} pool of head={self.head!r}; expected head='global_pool'"
            )

    @property
    def classes(self) -> int:
        """Number of classes of the data set."""
        return cifar.CLASSES.get(self.dataset, 10)

    def data_hashes(self) -> dict[str, str]:
        """See `workloads.workload.Workload`."""
        if self.dataset in cifar.CLASSES:
            return {self.dataset: cifar.content_hash(self.dataset)}
        mnist5k.find()
        return {"mnist5k": mnist5k.SHA256}

    def data(self, split_seed: int) -> Splits:
        """See `workloads.workload.Workload`."""
        if self.dataset in cifar.CLASSES:
            return cifar.streams(self.dataset, split_seed)
        splits = mnist5k.splits(split_seed, self.side)
        return training_part(splits, split_seed, self.training_examples, self.label_noise, self.classes)

    @property
    def _channels(self) -> Channels | None:
        """What streamed images, which are uint8, are standardised by."""
        if self.dataset not in cifar.CLASSES:
            return None
        return cifar.MEAN[self.dataset], cifar.DEVIATION[self.dataset]

    @cached_property
    def model(self) -> Model:
        """The Flax module."""
        import jax

        from workloads.convolution import lowering_of
        from workloads.wide_resnet.model import WideResNet as Model

        return Model(
            depth=self.depth,
            width=self.width,
            group_strides=self.group_strides,
            head=self.head,
            classes=self.classes,
            batch_norm_momentum=self.batch_norm_momentum,
            virtual_batch_size=self.virtual_batch_size,
            compute_dtype=self.compute_dtype,
            convolution=lowering_of(self.convolution, jax.default_backend()),
        )

    def initial(self, key: jax.Array) -> tuple[Any, Any]:
        """See `workloads.workload.Workload`; the model state holds the running batch statistics."""
        import jax.numpy as jnp

        channels = 1 if self.dataset == "mnist5k" else 3
        variables = self.model.init(key, jnp.zeros((1, self.side, self.side, channels), jnp.float32), train=False)
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


HYPERPARAMETERS = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "warmup_steps": 0}

SCALES = {
    "smoke": Scale(WideResNet(10, 1, batch_norm_momentum=0.9, dataset="mnist5k", side=8), 16, 6, 250, HYPERPARAMETERS),
    "laptop": Scale(
        WideResNet(10, 1, batch_norm_momentum=0.9, dataset="mnist5k", side=8), 64, 100, 250, HYPERPARAMETERS
    ),
    "accelerator": Scale(WideResNet(dataset="mnist5k"), 128, 5000, 1000, HYPERPARAMETERS),
    # Zagoruyko and Komodakis 2016, arXiv 1605.07146: batch 128 and 200 epochs, here of the 45,000 images that are not
    # held out. Their rate falls to a fifth after 60, 120 and 160 epochs, and their decay is of all parameters, where
    # ours is of kernels. Published test errors, after training on all 50,000: .040 of cifar10, .202 of cifar100.
    "paper": Scale(
        WideResNet(),
        128,
        70_312,
        1000,
        {**HYPERPARAMETERS, "weight_decay": 5e-4},
        "nesterov",
        "cosine",
    ),
}
