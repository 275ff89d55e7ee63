"""That the arms of `bench_peers.py` train the same thing."""

import dataclasses
import importlib
import re

import jax
import numpy as np
import pytest

from harness.training.programs import Programs
from harness.training.run import run_trial
from workloads.bench_peers_arms import study_trials, train_in_loop
from workloads.contract import compile_quickly, weighted
from workloads.resnet.workload import ResNet

WORKLOADS = ("wide_resnet", "transformer")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def peers(torch):
    return importlib.import_module("workloads.bench_peers_torch")


def with_our_weights(torch, peers, workload, parameters, state):
    """A network of PyTorch's with our parameters and batch statistics: none of ours is left over, none of its own."""
    model = peers.network(workload)
    tensors = {}
    for path, value in jax.tree_util.tree_leaves_with_path({"params": parameters, "batch_stats": state}):
        *names, leaf = (key.key for key in path[1:])
        value = np.asarray(value)
        if leaf == "kernel":
            if workload.name == "wide_resnet" and names == ["head"]:
                side = round((len(value) / model.final_norm.num_features) ** 0.5)
                value = value.reshape(side, side, -1, workload.classes).transpose(2, 0, 1, 3).reshape(value.shape)
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        theirs = {"mean": "running_mean", "var": "running_var", "bias": "bias"}.get(leaf, "weight")
        tensors[".".join([*their_names(names), theirs])] = torch.tensor(value)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model


def their_names(names):
    first, *rest = names
    if first.startswith("group"):
        return ["blocks", first, *rest]
    if first == "decoder_norm":
        return ["norm"]
    if layer := re.fullmatch(r"decoder(\d+)_(.*)", first):
        number, name = layer.groups()
        return ["layers", number, *rest] if name == "self_attention" else ["layers", number, name, *rest]
    return names


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def size_of_ours(parameters):
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def arbitrary_variables(workload):
    """Variables of the right shapes that need no compilation, none of them 0 or 1 throughout."""
    random = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("kernel", "embedding"):
            return random.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32)
        return random.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(workload.initial, jax.random.key(0)))


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_networks_of_pytorch_are_ours(torch, peers, name):
    workload = study_trials(name, 1)[0].workload
    parameters, state = arbitrary_variables(workload)
    model = with_our_weights(torch, peers, workload, parameters, state)
    assert size(model) == size_of_ours(parameters)

    batch = weighted(workload.data(0).train, np.arange(8))
    [field] = batch.keys() - {"label", "weight"}

    @compile_quickly
    def ours(parameters, state):
        logits = [
            workload.model.apply(
                {"params": parameters, "batch_stats": state}, batch[field], train=train, mutable=["batch_stats"]
            )[0]
            for train in (False, True)
        ]
        return logits, workload.loss(parameters, state, batch, True, jax.random.key(0))[0]

    (evaluated, trained), loss = ours(parameters, state)
    inputs = torch.from_numpy(batch[field])
    if name == "wide_resnet":
        inputs = inputs.permute(0, 3, 1, 2)
    with torch.no_grad():
        np.testing.assert_allclose(model.eval()(inputs).numpy(), evaluated, atol=1e-4)
        logits = model.train()(inputs)
        np.testing.assert_allclose(logits.numpy(), trained, atol=1e-4)
        theirs = peers.mean_loss(logits, torch.from_numpy(batch["label"]).long())
    assert theirs.item() == pytest.approx(float(loss), abs=1e-4)


def test_resnet50_of_pytorch_has_as_many_parameters_as_ours(torch, peers):
    with torch.device("meta"):
        model = peers.ResNet50()
    parameters, _ = jax.eval_shape(ResNet(50).initial, jax.random.key(0))
    assert size(model) == size_of_ours(parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_the_arms_train_alike(torch, peers, name):
    [trial] = study_trials(name, 1)
    trial = dataclasses.replace(trial, steps=5, evaluation_steps=(5,))
    outcome = run_trial(Programs(trial), trial)
    parameters, state = compile_quickly(trial.workload.initial)(jax.random.key(trial.seeds["init"]))
    model = with_our_weights(torch, peers, trial.workload, parameters, state)
    for losses, objective in (train_in_loop(trial), peers.train(trial, 1, model)):
        np.testing.assert_allclose(losses, outcome.curves["train_loss"], rtol=1e-3)
        assert objective == pytest.approx(outcome.results[f"final_{trial.workload.objective}"], abs=0.005)
