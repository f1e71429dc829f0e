"""The examples in docstrings do what they say."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["cascade.chain", "stages.glow", "stages.srflow"])
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 2 and not result.failed
