"""Fewer training examples, and wrong labels on some of them, for data sets that are held as arrays."""

from __future__ import annotations

import numpy as np

from workloads.workload import ConfigurationError, Splits, check_at_least


def check_training_part(training_examples: int, label_noise: float, size: int, dataset: str) -> None:
    """Raises ConfigurationError unless the fields of a workload suit `training_part`.

    Args:
      training_examples: how many are asked for, 0 for all.
      label_noise: share of labels that is asked for.
      size: of the whole training set; 0 where the data set is streamed, which takes neither.
      dataset: its name.
    """
    check_at_least("training_examples", training_examples, 0)
    if training_examples > size:
        expected = f"expected at most {size} of {dataset}, or 0 for all" if size else f"expected 0, all, of {dataset}"
        raise ConfigurationError(f"training_examples={training_examples!r}: {expected}")
    if not 0 <= label_noise <= (1 if size else 0):
        expected = "expected 0 to 1" if size else f"expected 0 of {dataset}"
        raise ConfigurationError(f"label_noise={label_noise!r}: {expected}")


def training_part(splits: Splits, split_seed: int, training_examples: int, label_noise: float, classes: int) -> Splits:
    """Keeps the first training examples, and replaces the labels of a share of them by uniformly drawn classes.

    A drawn class may be the right one, so that with 10 classes .9 of the share are wrong: the partially corrupted
    labels of Zhang et al. 2017, arXiv 1611.03530, section 2.1, here of an exact number of examples. The images stay
    standardised by the whole training set, and the validation examples stay as they are.

    Args:
      splits: arrays, the training examples in random order.
      split_seed: decides which labels are replaced, and by what.
      training_examples: how many to keep, 0 for all.
      label_noise: share of the kept examples, 0 to 1; their number is rounded.
      classes: number of classes.
    """
    kept = training_examples or len(splits.train["label"])
    train = {name: values[:kept] for name, values in splits.train.items()}
    if label_noise:
        generator = np.random.default_rng([split_seed, 1])  # another stream than the split's own
        replaced = generator.permutation(kept)[: round(label_noise * kept)]
        train["label"] = train["label"].copy()
        train["label"][replaced] = generator.integers(classes, size=len(replaced))
    return Splits(train=train, validation=splits.validation)
