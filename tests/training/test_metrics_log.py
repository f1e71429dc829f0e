"""Reading what training wrote down."""

import pytest

from cascade.training.metrics_log import logged_stages, read_metrics
from stages import InputError


def test_metrics_of_a_run_that_is_still_writing(tmp_path):
    stage = tmp_path / "run" / "glow8"
    stage.mkdir(parents=True)
    with pytest.raises(InputError, match="holds no metrics"):
        logged_stages(tmp_path / "run")
    log = stage / "metrics.jsonl"
    log.write_text('{"step": 20, "bpd": 4.5}\n{"step": 40, "bp')
    assert read_metrics(stage) == [{"step": 20, "bpd": 4.5}]
    assert logged_stages(stage) == [stage]
    log.write_text('{"step": 20, "bp\n{"step": 40}\n')
    with pytest.raises(InputError, match="damaged"):
        read_metrics(stage)
