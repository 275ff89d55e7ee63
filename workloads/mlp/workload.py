"""The `mlp` workload: a small fully connected network on digits.

A stand-in to find settings quickly, and where a claim needs more trials than a ResNet allows. Its noisy task is 1,000
training examples with a fifth of their labels replaced: `training_examples=1000 label_noise=0.2`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from workloads.data import mnist5k
from workloads.data.training_part import check_training_part, training_part
from workloads.workload import Scale, Splits, check_at_least, check_choice

if TYPE_CHECKING:
    import jax

    from workloads.mlp.model import MLP as Model


@dataclasses.dataclass(frozen=True)
class MLP:
    """Configuration of a fully connected network.

    Attributes:
      hidden_layers: how many, at least 0.
      width: units of each hidden layer.
      dataset: `mnist5k`.
      side: side of the square images.
      training_examples: how many of the training examples, 0 for all 4,000.
      label_noise: share of the training labels that are replaced, see `workloads.data.training_part`.
      validate_on_rest: hold out what `training_examples` leaves too, for evaluations of a smaller sampling error.
    """

    name: ClassVar[str] = "mlp"
    classes: ClassVar[int] = 10
    objective: ClassVar[str] = "error"

    hidden_layers: int = 2
    width: int = 64
    dataset: str = "mnist5k"
    side: int = 8
    training_examples: int = 0
    label_noise: float = 0.0
    validate_on_rest: bool = False

    def __post_init__(self) -> None:
        """Checks every field, so that a bad one is refused before anything runs."""
        check_at_least("hidden_layers", self.hidden_layers, 0)
        check_at_least("width", self.width, 1)
        check_choice("dataset", self.dataset, ("mnist5k",))
        check_at_least("side", self.side, 1)
        check_training_part(self.training_examples, self.label_noise, mnist5k.TRAINING_EXAMPLES, self.dataset)

    def data_hashes(self) -> dict[str, str]:
        """See `workloads.workload.Workload`."""
        mnist5k.find()
        return {"mnist5k": mnist5k.SHA256}

    def data(self, split_seed: int) -> Splits:
        """See `workloads.workload.Workload`."""
        splits = mnist5k.splits(split_seed, self.side)
        kept = training_part(splits, split_seed, self.training_examples, self.label_noise, self.classes)
        if not self.validate_on_rest:
            return kept
        rest = len(kept.train["label"])
        held_out = {f: np.concatenate([splits.validation[f], splits.train[f][rest:]]) for f in splits.validation}
        return Splits(kept.train, held_out)

    @cached_property
    def model(self) -> Model:
        """The Flax module."""
        from workloads.mlp.model import MLP as Model

        return Model(self.hidden_layers, self.width, self.classes)

    def initial(self, key: jax.Array) -> tuple[Any, Any]:
        """See `workloads.workload.Workload`; the model state is empty."""
        import jax.numpy as jnp

        variables = self.model.init(key, jnp.zeros((1, self.side, self.side, 1), jnp.float32))
        return variables["params"], {}

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
        from workloads.cross_entropy import weighted_cross_entropy

        del train, key  # nothing here is random
        logits = self.model.apply({"params": parameters}, batch["image"])
        loss, metrics = weighted_cross_entropy(logits, batch["label"], batch["weight"], label_smoothing)
        return loss, (metrics, state)

    def predictions(self, parameters: Any, state: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        """See `workloads.workload.Workload`."""
        import jax.numpy as jnp

        logits = self.model.apply({"params": parameters}, batch["image"])
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


HYPERPARAMETERS = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "warmup_steps": 0}

SCALES = {
    "smoke": Scale(MLP(), 16, 20, 250, HYPERPARAMETERS),
    "laptop": Scale(MLP(), 64, 1000, 1000, HYPERPARAMETERS),
}
