import pytest

from harness.importers import names


@pytest.mark.parametrize(
    "name, goal",
    [
        ("validation_error", "min"),
        ("valLoss", "min"),
        ("best_valid/error_rate", "min"),
        ("val/cross_entropy_error", "min"),
        ("valid/ce_loss", "min"),
        ("Perplexity", "min"),
        ("validation/wer", "min"),
        ("accuracy", "max"),
        ("validation/mean_average_precision", "max"),
        ("f1", "max"),
        ("test-ssim", "max"),
        ("log_likelihood", "max"),
        ("negative_log_likelihood", "min"),
        ("neg_mean_squared_error", "max"),
        ("objective", None),
        ("value", None),
        ("terror", None),
        ("", None),
    ],
)
def test_goal_is_that_of_the_last_metric_in_the_name(name, goal):
    assert names.goal(name) == goal


@pytest.mark.parametrize(
    "name", ["train_loss", "error_rate", "test_acc", "val_loss_mean", "bestScore", "accuracy_top1"]
)
def test_metrics_are_known_by_their_names(name):
    assert names.is_metric(name)


@pytest.mark.parametrize(
    "name",
    ["learning_rate", "loss_weight", "reward_scale", "train_steps", "batch_size", "val_fraction", "rate", "1", ""],
)
def test_settings_are_no_metrics(name):
    assert not names.is_metric(name)


@pytest.mark.parametrize(
    "name, role",
    [
        ("state", "status"),
        ("Trial ID", "identity"),
        ("", "identity"),
        ("hps.rng_seed", "seed"),
        ("seed.init", "seed"),
        ("num_seeds", None),
        ("replicate", "seed"),
        ("trial_seconds", "timing"),
        ("datetime_start", "timing"),
        ("time_constant", None),
        ("user_attrs_note", "note"),
        ("study_group", "study"),
        ("best_step", "result"),
        ("warmup_steps", None),
        ("learning_rate", None),
        ("epochs", None),
    ],
)
def test_role_by_name(name, role):
    assert names.role(name) == role


@pytest.mark.parametrize(
    "better, worse",
    [
        ("objective", "val_error"),
        ("val_error", "error"),
        ("val_error", "val_loss"),
        ("best_error", "final_error"),
        ("error", "loss"),
        ("val_loss", "accuracy"),
    ],
)
def test_objective_that_is_taken(better, worse):
    assert names.objective_rank(better, False) < names.objective_rank(worse, False)
    assert names.objective_rank(worse, False) < names.objective_rank(worse, True)


@pytest.mark.parametrize("name", ["train_loss", "test_error", "val_error_std", "learning_rate", "generalization_gap"])
def test_what_never_serves_as_the_objective(name):
    assert names.objective_rank(name, False) is None


@pytest.mark.parametrize(
    "word, status",
    [
        ("COMPLETE", "complete"),
        ("done", "complete"),
        ("Early-Stopped", "pruned"),
        ("diverged", "infeasible"),
        ("INCOMPLETE", "unfinished"),
        ("", None),
        ("fine", None),
    ],
)
def test_status_by_word(word, status):
    assert names.status(word) == status
