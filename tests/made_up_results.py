"""Made-up results of experiments, as `result.json` holds them, and flip maps."""

DEVICE = "NVIDIA Made-up 1"
"""Which has no baselines, so that no recorded flip maps appear."""

COMMIT = "0123456789abcdef0123456789abcdef01234567-dirty"


def claim(name, verdict, reason=None):
    return {
        "id": name,
        "text": f"Text of {name} <b>.",
        "verdict": verdict,
        "reason": reason,
        "effect": 0.25,
        "interval": [0.125, None],
        "level": 0.95,
        "n": 12,
        "rule": f"Rule of {name}.",
    }


def result(experiment, run, claims, **fields):
    """A result whose folder is called as `run` says; `fields` come in place of others."""
    scale, seed = run.split("-")[:2]
    return {
        "experiment": experiment,
        "scale": scale,
        "seed": int(seed.removeprefix("seed")),
        "control": run.endswith("control"),
        "overrides": {},
        "judged": bool(claims),
        "claims": claims,
        "trials": {"complete": 16, "infeasible": 4},
        "fingerprint": "f" * 64,
        "seconds": 90.0,
        "provenance": {
            "command": f"playbook reproduce {experiment}",
            "commit": COMMIT,
            "versions": {"jax": "0.10"},
            "device": DEVICE,
            "source": "c" * 64,
            "data": {"mnist5k": "a" * 64},
            "written": "2026-01-01T00:00:00+00:00",
            "packing": {"mlp": {"executor": "processes", "lanes": 1, "chunk": 64}},
            "compilations": {"mlp": 1},
            "shared": {},
        },
        **fields,
    }


def flips(claims, device=DEVICE):
    """Maps with a cell in which nothing is decided, and one that cannot be run."""
    undecided = [{**one, "verdict": "inconclusive", "reason": "power"} for one in claims]
    cells = [
        {"axis": "steps", "factor": 2.0, "claims": undecided},
        {"axis": "model", "factor": 0.5, "unavailable": "as narrow as it can be"},
    ]
    return {"seed": 0, "device": device, "claims": claims, "cells": cells}
