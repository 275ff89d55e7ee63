"""What the name of a column says: which role it plays, which way a metric is better, which metric is the objective."""

from __future__ import annotations

import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words of a metric's name; the last one in it decides, so that cross_entropy_error is an error.
_SMALLER = _set(
    "error errors err loss nll ce entropy perplexity ppl mse rmse mae mape wer cer regret cost bpc bpd fid brier"
)
_LARGER = _set(
    "accuracy acc auc auroc auprc f1 bleu score reward return ssim psnr precision recall map ndcg iou r2 likelihood "
    "rouge"
)
_NEGATED = frozenset(("neg", "negative"))
_LOSS_LIKE = frozenset(("loss", "nll", "ce", "entropy", "perplexity", "ppl", "likelihood", "cost"))
_VALIDATION = frozenset(("validation", "valid", "val", "dev", "eval", "evaluation"))
_OTHER_SPLITS = frozenset(("train", "training", "test", "holdout"))
_GENERIC = frozenset(("objective", "value"))
# What may follow the metric in its name.
_QUALIFIERS = _set("rate mean std avg average median min max best final last value top1 top5 1 5")

_ROLES = {
    "status": "status state trial_status trial_state",
    "study": "study study_name study_group",
    "identity": "trial trial_id trial_number trial_name id index number name run run_id run_name uid uuid address hash "
    "internal_id",
    "note": "reason note notes comment comments description message error_message host hostname user command path dir "
    "trial_dir study_dir url commit created sweep tags",
    "result": "best_step best_epoch global_step epoch step iteration training_iteration",
    "seed": "replicate repeat repetition random_state",
}
_ROLE = {name: role for role, names in _ROLES.items() for name in names.split()}
_TIMES = _set("seconds secs time duration walltime runtime timestamp date datetime elapsed")


def words(name: str) -> list[str]:
    """The words of a name in lower case: `valLoss`, `val/loss` and `val_loss` give `val`, `loss`."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


def role(name: str) -> str | None:
    """What a column is by its name alone.

    Args:
      name: of the column.

    Returns:
      `status`, `study`, `identity` (numbers or names the trials), `note`, `result`, `seed` or `timing`; None where the
      name says none of these: a hyperparameter, a metric or a curve.
    """
    parts = words(name)
    if not parts:
        return "identity"  # pandas writes its index without a name
    if known := _ROLE.get("_".join(parts)):
        return known
    if parts[0] in ("user", "system") and parts[1:2] == ["attrs"]:  # Optuna's data frame
        return "note"
    if "seed" in parts and parts[0] not in ("n", "num"):
        return "seed"
    if parts[-1] in _TIMES or parts[0] == "datetime":
        return "timing"
    return None


def is_metric(name: str) -> bool:
    """Whether the name is that of a metric, such as `train/error_rate`: not `learning_rate`, nor `loss_weight`."""
    parts = words(name)
    while len(parts) > 1 and parts[-1] in _QUALIFIERS:
        parts.pop()
    return bool(parts) and parts[-1] in _SMALLER | _LARGER


def is_step(name: str) -> bool:
    """Whether the name is that of the steps of a curve, such as `global_step`."""
    return words(name)[-1:] in (["step"], ["steps"], ["epoch"], ["epochs"])


def goal(name: str) -> str | None:
    """Which way the metric is better by its name.

    Args:
      name: of the objective.

    Returns:
      `min` or `max`; None where the name does not say.
    """
    parts = words(name)
    found = [word for word in parts if word in _SMALLER | _LARGER]
    if not found:
        return None
    return "min" if (found[-1] in _SMALLER) != bool(_NEGATED.intersection(parts)) else "max"


def objective_rank(name: str, is_curve: bool) -> tuple | None:
    """How well a column serves as the objective where none is given; the least rank is taken.

    A column called objective or value comes first; then numbers before curves, metrics of the validation set before
    those that name no set, metrics proper before losses, and the best value before a plain or a final one. Metrics of
    the training and test set never serve: the playbook chooses by validation error alone.

    Args:
      name: of the column.
      is_curve: whether it holds a curve per trial.

    Returns:
      The rank, to be compared; None where the column does not serve.
    """
    parts = words(name)
    if len(parts) == 1 and parts[0] in _GENERIC:
        return (0, is_curve)
    if not is_metric(name) or _OTHER_SPLITS.intersection(parts) or {"std", "gap"}.intersection(parts):
        return None
    taken = 0 if "best" in parts else 2 if {"final", "last"}.intersection(parts) else 1
    return (1, is_curve, not _VALIDATION.intersection(parts), bool(_LOSS_LIKE.intersection(parts)), taken)


_STATUS = {
    "complete": "complete completed done finished success succeeded successful ok feasible terminated",
    "infeasible": "infeasible fail failed failure diverged divergent nan inf error errored crashed",
    "pruned": "pruned stopped early_stopped",
    "unfinished": "incomplete unfinished running waiting pending queued scheduled requested active killed preempted "
    "paused",
}
_STATUS_OF = {word: status for status, line in _STATUS.items() for word in line.split()}
STATUS_WORDS = tuple(_STATUS_OF)


def status(word: str) -> str | None:
    """`complete`, `infeasible`, `pruned` or `unfinished` for what a source calls it; None for an unknown word."""
    return _STATUS_OF.get("_".join(re.findall("[a-z]+", word.lower())))
