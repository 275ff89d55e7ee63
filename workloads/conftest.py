"""Lets pytest explain the assertions of the tests that workloads inherit."""

import pytest

pytest.register_assert_rewrite("workloads.contract")
