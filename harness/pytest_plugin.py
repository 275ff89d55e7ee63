"""The pytest option `--scale`; a plugin, so that `pytest --pyargs workloads` has it too."""

import importlib.metadata

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--scale`."""
    parser.addoption("--scale", default="smoke", help="size of the runs: smoke, laptop, accelerator or paper")


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> str:
    """The scale asked for."""
    return request.config.getoption("--scale")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict) -> None:
    """Adds JAX's version to what `--benchmark-json` says of the machine."""
    machine_info["jax"] = importlib.metadata.version("jax")
