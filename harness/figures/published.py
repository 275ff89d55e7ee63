"""The playbook's digitised figures, from the data package `baselines`."""

import csv
import importlib.resources


def published(name: str) -> list[dict[str, str]]:
    """Reads the rows of `baselines/published/<name>.csv`, column to text."""
    text = importlib.resources.files("baselines").joinpath("published", f"{name}.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))
