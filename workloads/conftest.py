"""Lets pytest explain the assertions of the tests that workloads inherit."""

import pytest

pytest.register_assert_rewrite("workloads.contract")

collect_ignore = ["bench_peers_arms.py", "bench_peers_torch.py"]
"""Programs that `bench_peers.py` runs; PyTorch is not always there."""
