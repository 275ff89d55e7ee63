"""A cheap workload that is the steeper the further it is from where training leads: warmup makes high rates usable."""

from tests.stand_in import HYPERPARAMETERS, StandIn
from workloads.workload import Scale


class Steep(StandIn):
    """The stand-in with the fourth powers of its weights in the loss, whose curvature falls with their squares."""

    def loss(self, parameters, state, batch, train, key, label_smoothing=0.0):
        import jax.numpy as jnp

        loss, (metrics, state) = super().loss(parameters, state, batch, train, key, label_smoothing)
        loss = loss + jnp.sum(parameters["kernel"] ** 4)
        return loss, ({**metrics, "loss": loss}, state)


SCALES = {"smoke": Scale(Steep(), 16, 200, 16, {**HYPERPARAMETERS, "momentum": 0.5})}
