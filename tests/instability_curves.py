"""Labelled training-loss curves for the instability classifier: simulated ones, and real ones of short trainings.

    python -m tests.instability_curves

trains the real ones anew (two minutes on a core) and writes `instability_curves.npz`. Every curve is of a *kind*, which
says how it was provoked and so what it has to be called; `KINDS` has both. Kinds were fixed before there was a
classifier. `held_out` splits all curves into a half to develop on and a half that was kept for one last evaluation.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).with_name("instability_curves.npz")

KINDS = {
    "stable": "stable",
    "slow": "stable",
    "noisy": "stable",
    "start": "initialisation",
    "early": "early",
    "middle": "mid-training",
}
"""Kind to its type: stable at a usual rate; stable at a rate far too low; stable on batches of a few examples; a rate
or a network that fails at once; a rate or a batch that goes bad in steps 13 to 10% of training; the same later."""

SIMULATED = 130
REAL_STEPS = 300


class Labelled(NamedTuple):
    """A curve with its label.

    Attributes:
      name: unique.
      kind: one of `KINDS`.
      loss: nats, (n,).
      norms: gradient norms, (n,); None where it is simulated.
    """

    name: str
    kind: str
    loss: np.ndarray
    norms: np.ndarray | None


def held_out(curve):
    """Whether a curve belongs to the half that was kept; a function of its name."""
    return hashlib.sha256(curve.name.encode()).digest()[0] % 2 == 1


def simulated():
    """Simulated curves: an exponential or a power-law fall, noise that scales with the loss, and what the kind adds."""
    return [simulate(index) for index in range(SIMULATED)]


def simulate(index):
    """One simulated curve; the labelled set has those of the indices below `SIMULATED`."""
    random = np.random.default_rng([20, index])
    kind = ("stable", "slow", "noisy", "start", "start", "early", "early", "middle", "middle", "stable")[index % 10]
    steps = int(random.choice([300, 500, 1000, 3000]))
    start = random.choice([2.303, 4.4, 10.4]) + random.uniform(0, 0.3)
    floor = start * random.uniform(0.02, 0.6)
    time = np.arange(steps) / steps
    pace = random.uniform(4, 40) if kind != "slow" else random.uniform(0.05, 0.5)
    fall = np.exp(-pace * time) if random.random() < 0.5 else (1 + 3 * pace * time) ** -random.uniform(0.4, 1)
    loss = floor + (start - floor) * fall
    if kind == "start":
        at = int(random.integers(1, 6))
        loss = _jump(random, loss, at, start)
    elif kind == "early":
        at = int(random.integers(13, max(15, steps // 10 - 3)))
        loss = _jump(random, loss, at, start)
    elif kind == "middle":
        at = int(random.integers(steps // 10 + 8, int(0.95 * steps)))
        loss = _jump(random, loss, at, start)
    share = random.uniform(0.1, 0.3) if kind == "noisy" else random.uniform(0.005, 0.06)
    noise = random.standard_normal(steps)
    if random.random() < 0.5:  # as of batches that look alike for a while
        noise = (noise + np.roll(noise, 1)) / np.sqrt(2)
    loss = np.maximum(loss + share * np.minimum(loss, 1.5 * start) * noise, 1e-3)
    if kind == "noisy" and random.random() < 0.5:  # odd batches, each for one step
        odd = random.choice(steps, max(1, steps // 100), replace=False)
        loss[odd] += random.uniform(1, 3, len(odd)) * share * 4
    return Labelled(f"simulated-{index}", kind, loss.astype(np.float32), None)


def _jump(random, loss, at, start):
    """Adds a rise from step `at`: it diverges, it stays, or it is over after a while."""
    loss, rest = loss.copy(), np.arange(len(loss) - at)
    size = random.uniform(0.4, 1.5) * start if random.random() < 0.7 else random.uniform(1.5, 30) * start
    ramp = np.minimum(1, (1 + rest) / random.choice([1, 2, 5, 20]))
    fate = random.choice(["recovers", "stays", "diverges"])
    if fate == "diverges":
        loss[at:] += 0.2 * np.expm1(np.minimum(rest * random.uniform(0.05, 0.5), 60))
        return np.where(loss > 1e6, np.nan, loss) if random.random() < 0.5 else np.minimum(loss, 1e6)
    if fate == "stays":
        loss[at:] = np.maximum(loss[at:], loss[at] + size * ramp)
        return loss
    decay = random.uniform(0.01, 0.08) * len(loss)
    loss[at:] += size * ramp * np.exp(-rest / max(decay, 8))
    return loss


BY_EYE = {"transformer-4-2": "stable", "transformer-4-3": "stable"}
"""Real curves whose kind is not the recipe's: the rate went bad for three steps, and their plots show no rise."""


def real():
    """The real curves of the file."""
    stored = np.load(FILE)
    columns = zip(*(stored[column] for column in ("name", "kind", "loss", "norms")), strict=True)
    return [Labelled(str(name), BY_EYE.get(str(name), str(kind)), *curves) for name, kind, *curves in columns]


class _Recipe(NamedTuple):
    """How a few curves are provoked.

    Attributes:
      kind: of `KINDS`.
      count: of curves.
      rates: lowest and highest, drawn between on a logarithmic scale.
      batch: examples of a batch.
      warmup: steps.
      harm: what happens from a step of the kind's on: nothing, `bad_batch` (inputs 30 times too large and labels
        shuffled, for two steps), or a number that the rate is multiplied by for `harm_steps`.
      harm_steps: see `harm`.
      overrides: of the workload's fields.
    """

    kind: str
    count: int
    rates: tuple[float, float]
    batch: int
    warmup: int = 0
    harm: str | float | None = None
    harm_steps: int = 3
    overrides: tuple = ()


_BUG = (("group_strides", (1, 2, 1)),)

_RECIPES = {
    "mlp": [
        _Recipe("stable", 12, (0.02, 0.2), 64),
        _Recipe("slow", 6, (1e-4, 1e-3), 64),
        _Recipe("noisy", 8, (2e-3, 1e-2), 4),
        _Recipe("start", 8, (3.0, 30.0), 64),
        _Recipe("early", 6, (0.05, 0.2), 64, harm="bad_batch"),
        _Recipe("early", 5, (0.05, 0.2), 64, harm=50.0, harm_steps=5),
        _Recipe("middle", 8, (0.05, 0.2), 64, harm="bad_batch"),
        _Recipe("middle", 6, (0.05, 0.2), 64, harm=50.0, harm_steps=5),
        _Recipe("middle", 4, (0.05, 0.2), 64, harm=50.0, harm_steps=REAL_STEPS),
    ],
    "transformer": [
        _Recipe("stable", 8, (5e-4, 2e-3), 8, warmup=30),
        _Recipe("slow", 5, (2e-5, 1e-4), 8),
        _Recipe("noisy", 6, (5e-4, 1e-3), 1, warmup=30),
        _Recipe("start", 7, (0.1, 1.0), 8),
        _Recipe("early", 6, (5e-4, 2e-3), 8, harm=200.0, harm_steps=3),
        _Recipe("middle", 5, (5e-4, 2e-3), 8, harm=200.0, harm_steps=3),
        _Recipe("middle", 5, (5e-4, 2e-3), 8, harm=100.0, harm_steps=REAL_STEPS),
    ],
    "wide_resnet": [
        _Recipe("stable", 5, (0.1, 1.0), 64),
        _Recipe("noisy", 3, (0.005, 0.02), 8),
        _Recipe("stable", 3, (0.1, 0.3), 64, warmup=50, overrides=_BUG),
        _Recipe("stable", 2, (0.005, 0.02), 64, overrides=_BUG),
        _Recipe("start", 7, (0.6, 2.0), 64, overrides=_BUG),
        _Recipe("early", 3, (0.02, 0.05), 64, harm=100.0, harm_steps=3, overrides=_BUG),
        _Recipe("middle", 3, (0.02, 0.05), 64, harm=100.0, harm_steps=3, overrides=_BUG),
        _Recipe("middle", 2, (0.02, 0.05), 64, harm="bad_batch"),
    ],
}


def _workload(name, overrides):
    from workloads.transformer.workload import Transformer
    from workloads.workload import configure, workload_scale

    if name == "transformer":
        return Transformer(2, 32, 2, 64, normalization="after", length=32, dataset="shakespeare"), "adam"
    return configure(workload_scale(name, "laptop").workload, dict(overrides)), "heavy_ball"


def _trainer(workload, optimizer):
    """Trains by hand, since no trial has bad batches: a compiled function to loss and gradient norm of every step."""
    import jax
    import optax

    from harness.training.optimizer import update_rule

    settings = {"momentum": 0.9, "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-9}

    @jax.jit
    def train(seed, batches, rates, scales):
        parameters, state = workload.initial(jax.random.key(seed))
        optimizer_state = update_rule(optimizer, settings, 0.0).init(parameters)

        def step(carry, given):
            parameters, state, optimizer_state = carry
            batch, rate, scale = given
            if "image" in batch:
                batch = {**batch, "image": batch["image"] * scale}
            batch = {**batch, "weight": jax.numpy.ones(batch["label"].shape[0])}

            def objective(parameters):
                loss, (_, new) = workload.loss(parameters, state, batch, True, jax.random.key(0))
                return loss, new

            (loss, state), gradients = jax.value_and_grad(objective, has_aux=True)(parameters)
            rule = update_rule(optimizer, settings, rate)
            updates, optimizer_state = rule.update(gradients, optimizer_state, parameters)
            carry = optax.apply_updates(parameters, updates), state, optimizer_state
            return carry, (loss, optax.tree.norm(gradients))

        return jax.lax.scan(step, (parameters, state, optimizer_state), (batches, rates, scales))[1]

    return train


def main():
    """Trains every recipe and writes the file."""
    rows = []
    for name, recipes in _RECIPES.items():
        for number, recipe in enumerate(recipes):
            workload, optimizer = _workload(name, recipe.overrides)
            data, train = workload.data(0).train, _trainer(workload, optimizer)
            for index in range(recipe.count):
                random = np.random.default_rng([ord(name[0]), number, index])
                rate = float(np.exp(random.uniform(*np.log(recipe.rates))))
                rates = np.full(REAL_STEPS, rate, np.float32)
                rates[: recipe.warmup] *= np.arange(recipe.warmup) / max(recipe.warmup, 1)
                chosen = random.integers(len(data["label"]), size=(REAL_STEPS, recipe.batch))
                batches = {field: values[chosen].copy() for field, values in data.items()}
                scales = np.ones(REAL_STEPS, np.float32)
                at = int(random.integers(13, 27) if recipe.kind == "early" else random.integers(45, 270))
                if recipe.harm == "bad_batch":
                    scales[at : at + 2] = 30
                    for bad in (at, at + 1):
                        batches["label"][bad] = random.permutation(batches["label"][bad])
                elif recipe.harm is not None:
                    rates[at : at + recipe.harm_steps] *= recipe.harm
                loss, norms = map(np.asarray, train(np.uint32(index), batches, rates, scales))
                rows.append((f"{name}-{number}-{index}", recipe.kind, loss, norms))
                print(rows[-1][0], recipe.kind, f"{loss[0]:.2f} {np.nanmin(loss):.2f} {loss[-1]:.2f}", flush=True)
    names, kinds, losses, norms = zip(*rows, strict=True)
    np.savez_compressed(FILE, name=names, kind=kinds, loss=_coarse(losses), norms=_coarse(norms))


def _coarse(curves):
    """Curves with 12 bits of mantissa: the file stays small, and the noise of a batch is far larger."""
    return (np.array(curves, np.float32).view(np.uint32) & np.uint32(0xFFFFF800)).view(np.float32)


if __name__ == "__main__":
    main()
