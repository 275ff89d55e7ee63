"""A fully connected network of ReLU layers of one width."""

import flax.linen as nn
import jax


class MLP(nn.Module):
    """Hidden dense layers with ReLU, and a dense head; kernels start LeCun-normal, biases at 0.

    Attributes:
      hidden_layers: how many.
      width: units of each.
      classes: number of classes.
    """

    hidden_layers: int
    width: int
    classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps (batch, height, width, channels) float32 images to (batch, classes) float32 logits."""
        x = images.reshape(images.shape[0], -1)
        for layer in range(self.hidden_layers):
            x = nn.relu(nn.Dense(self.width, name=f"hidden{layer}")(x))
        return nn.Dense(self.classes, name="head")(x)
