"""Forward multiply-accumulates of the reference models against `baselines/published/models.csv`."""

import csv
import math
import re
from importlib.resources import files

import jax
import jax.numpy as jnp
import pytest

from workloads.resnet.workload import ResNet
from workloads.wide_resnet.model import WideResNet as WideResNetModel


def published():
    text = files("baselines").joinpath("published/models.csv").read_text()
    rows = {row["model"]: row for row in csv.DictReader(text.splitlines())}
    del rows["resnet50_v1"]  # its stride stands in the first 1x1 convolution, which no configuration has
    return rows


def build(name):
    if name == "resnet50_v1.5":
        return ResNet(50, convolution="xla").model
    depth, width, classes, bug = re.fullmatch(r"wrn_(\d+)_(\d+)_cifar(\d+)(_stride_bug)?", name).groups()
    strides, head = ((1, 2, 1), "flatten") if bug else ((1, 2, 2), "global_pool")
    return WideResNetModel(int(depth), int(width), strides, head, int(classes), 0.9, 0, "float32", "xla")


def multiply_accumulates(jaxpr):
    """Those of the convolutions and matrix products, also of the jaxprs inside."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            height, width, channels, _ = equation.invars[1].aval.shape
            total += math.prod(equation.outvars[0].aval.shape) * height * width * channels
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += math.prod(equation.outvars[0].aval.shape) * summed
        inner = [value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")]
        total += sum(map(multiply_accumulates, inner))
    return total


@pytest.mark.parametrize(("name", "row"), published().items(), ids=published())
def test_published_multiply_accumulates(name, row):
    model = build(name)
    images = jax.ShapeDtypeStruct((1, *map(int, row["input"].split("x"))), jnp.float32)
    variables = jax.eval_shape(lambda images: model.init(jax.random.key(0), images, train=False), images)
    forward = jax.make_jaxpr(lambda variables, images: model.apply(variables, images, train=False))(variables, images)
    assert multiply_accumulates(forward.jaxpr) / 1e9 == pytest.approx(float(row["forward_gmacs"]), rel=0.01)


def test_the_counter_by_hand():
    def program(images, kernel, weights):
        maps = jax.lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.jit(jnp.dot)(maps.reshape(2, 48), weights)

    shapes = [(2, 8, 8, 5), (3, 3, 5, 3), (48, 7)]
    jaxpr = jax.make_jaxpr(program)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    assert multiply_accumulates(jaxpr.jaxpr) == 2 * 4 * 4 * 3 * 9 * 5 + 2 * 48 * 7
