import pytest

from harness.experiments.experiment import SCALES
from harness.experiments.stride_instability import EXPERIMENT
from harness.figures.published import published
from workloads.workload import workload_scale


@pytest.mark.parametrize("control", [False, True])
def test_paper_scale_trains_as_long_as_the_figure(control):
    end = max(int(row["step"]) for row in published("fig4_train_loss"))
    for study in EXPERIMENT.studies("paper", control, {}):
        assert (study.steps, study.optimizer, study.schedule) == (end, "nesterov", "cosine")
        assert study.workload == workload_scale("wide_resnet", "paper").workload
        assert {p.trial.total_steps - p.trial.hyperparameters["warmup_steps"] for p in study.plan(0)} == {end}


@pytest.mark.parametrize("scale", [scale for scale in SCALES if scale != "paper"])
def test_other_scales_train_as_long_as_the_workload(scale):
    steps = workload_scale("wide_resnet", scale).steps
    assert {study.steps for study in EXPERIMENT.studies(scale, False, {})} == {steps}
