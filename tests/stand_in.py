"""A cheap workload and experiments on it, which go the whole road of a real one; `python -m tests.stand_in` is the
command `playbook` with these alone.

Where the environment names a folder in `STAND_IN_FOLDER`, every call for data leaves a file there that holds what it
saw, and files that a test puts there make trials fail: a fault belongs to the environment, so that it changes neither
the address of a trial nor its outcome.
"""

import dataclasses
import functools
import json
import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from harness.experiments import experiment as catalogue
from harness.experiments.experiment import Experiment
from harness.records import Claim
from harness.studies import pack_checkpoints
from harness.studies.study import Arm, Study
from harness.training.trial import Trial, derive_seeds
from workloads.workload import ConfigurationError, DataError, Scale, Score, Splits, configure

HYPERPARAMETERS = {"learning_rate": 0.5, "momentum": 0.9, "weight_decay": 1e-3, "warmup_steps": 0}
PROGRAMS = 2  # of a group without curvature: train and evaluate
TRIALS_OF_STUDY = 12
FOLDER = "STAND_IN_FOLDER"
EAGER = "STAND_IN_SAVES_ALWAYS"
if EAGER in os.environ:  # workers import this module too
    pack_checkpoints.SECONDS_BETWEEN = 0.0


@dataclasses.dataclass(frozen=True)
class StandIn:
    """Logistic regression on synthetic examples of three classes."""

    name: ClassVar[str] = "stand_in"
    classes: ClassVar[int] = 3
    objective: ClassVar[str] = "error"

    features: int = 4
    examples: int = 48

    def __post_init__(self):
        if self.features < 1:
            raise ConfigurationError(f"features={self.features!r}: expected at least 1")

    def data_hashes(self):
        return {"synthetic": "0" * 64}

    def data(self, split_seed):
        if FOLDER in os.environ:
            meet_faults(Path(os.environ[FOLDER]), split_seed)
        random = np.random.default_rng(split_seed)
        label = random.integers(self.classes, size=self.examples).astype(np.int32)
        image = (random.standard_normal((self.examples, self.features)) + label[:, None]).astype(np.float32)
        held_out = self.examples // 3
        train = {"image": image[held_out:], "label": label[held_out:]}
        return Splits(train=train, validation={"image": image[:held_out], "label": label[:held_out]})

    def initial(self, key):
        import jax
        import jax.numpy as jnp

        kernel = jax.random.normal(key, (self.features, self.classes), jnp.float32)
        return {"kernel": kernel, "bias": jnp.zeros(self.classes, jnp.float32)}, {}

    def loss(self, parameters, state, batch, train, key, label_smoothing=0.0):
        from workloads.cross_entropy import weighted_cross_entropy

        logits = batch["image"] @ parameters["kernel"] + parameters["bias"]
        loss, metrics = weighted_cross_entropy(logits, batch["label"], batch["weight"], label_smoothing)
        return loss, (metrics, state)

    def predictions(self, parameters, state, batch):
        import jax.numpy as jnp

        logits = batch["image"] @ parameters["kernel"] + parameters["bias"]
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


class Scored(StandIn):
    """A stand-in whose best checkpoint is measured further."""

    def score(self, parameters, state):
        return Score("weight", float(np.abs(parameters["kernel"]).mean()), "mean magnitude")


def meet_faults(folder, seed):
    """Notes the call in the folder, then meets what a test has put there for this split seed.

    `kill-SEED` kills the worker once, `error-SEED` raises, `missing-SEED` is missing data, `hold-SEED` keeps the trial
    waiting while the file is there.
    """
    call = {"pid": os.getpid(), "seed": seed, "environment": {k: os.environ.get(k) for k in ("NPROC", "XLA_FLAGS")}}
    partial = folder / f".{os.getpid()}-{time.monotonic_ns()}"
    partial.write_text(json.dumps(call))
    partial.rename(folder / f"call-{partial.name[1:]}")
    if (folder / f"kill-{seed}").exists():
        (folder / f"kill-{seed}").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if (folder / f"error-{seed}").exists():
        raise MemoryError(f"no room for {seed}")
    if (folder / f"missing-{seed}").exists():
        raise DataError("synthetic: the data are missing; install them")
    while (folder / f"hold-{seed}").exists():
        time.sleep(0.01)


def calls(folder):
    return [json.loads(path.read_text()) for path in folder.glob("call-*")]


def stand_in_trial(replicate=0, learning_rate=0.5, seed=0, **changes):
    fields = {
        "workload": StandIn(),
        "batch_size": 8,
        "steps": 20,
        "evaluation_steps": (20,),
        "evaluation_batch_size": 16,
        "optimizer": "heavy_ball",
        "schedule": "constant",
        "hyperparameters": {**HYPERPARAMETERS, "learning_rate": learning_rate},
        "seeds": derive_seeds(seed, replicate),
    }
    return Trial(**{**fields, **changes})


def stand_in_study(**changes):
    """Two arms, two rates, three replicates: 12 trials in two compile groups."""
    fields = {
        "name": "rates",
        "workload": StandIn(),
        "arms": (Arm("narrow"), Arm("wide", {"features": 5})),
        "points": [{"learning_rate": 0.1}, {"learning_rate": 0.5}],
        "replicates": range(3),
        "hyperparameters": HYPERPARAMETERS,
        "batch_size": 8,
        "steps": 20,
        "evaluation_batch_size": 16,
    }
    return Study(**{**fields, **changes})


def _studies(scale, control, overrides):
    return [stand_in_study(workload=configure(StandIn(), overrides))]


def _draw(records, verdicts, scale):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([record.results["final_error"] for record in records])
    return figure


SCALES = {"smoke": Scale(StandIn(), 8, 20, 16, HYPERPARAMETERS)}
SCORED = {"smoke": Scale(Scored(), 8, 20, 16, HYPERPARAMETERS)}

EXPERIMENT = Experiment(
    name="stand-in",
    title="A stand-in",
    source="tests",
    figure="Final errors.",
    claims=(Claim("stand-in.claim", "It runs.", "None."),),
    control="Nothing.",
    studies=_studies,
    judge=lambda records, scale, control: [],
    draw=_draw,
)


def _retrained(records, scale, control, overrides):
    """The best rate in a compile group of the first round and in another, on fresh seeds."""
    best = min(records, key=lambda record: record.results["final_error"])
    point = {"learning_rate": best.hyperparameters["learning_rate"]}
    arms = (Arm("wide", {"features": 5}), Arm("wider", {"features": 6}))
    workload = configure(StandIn(), overrides)
    return [stand_in_study(name="winner", workload=workload, arms=arms, points=[point], replicates=range(3, 5))]


ROUNDS = dataclasses.replace(
    EXPERIMENT, name="stand-in-rounds", follow_ups=(_retrained, lambda records, scale, control, overrides: [])
)
TRIALS_OF_ROUNDS = (TRIALS_OF_STUDY, TRIALS_OF_STUDY + 4)


@functools.cache
def only_this():
    return {one.name: one for one in (EXPERIMENT, ROUNDS)}


if __name__ == "__main__":
    from harness.cli import main
    from tests.stand_in import only_this as importable  # so that workers find the workload by its module's name

    catalogue.experiments = importable
    main()
