"""Several processes that train one network; `test_train.py` runs two for real."""

import pytest
import torch

from ofatvm.errors import TrainingError
from ofatvm.supernet.processes import Processes


def test_a_process_that_is_gone_is_one_error(monkeypatch):
    def gone(*given):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", gone)
    monkeypatch.setattr(torch.distributed, "all_gather", gone)
    parameter = torch.nn.Parameter(torch.zeros(3))
    for work in (
        lambda: Processes(0, 2).agree(1, 2),
        lambda: Processes(0, 2).average_gradients([parameter], 0.5),
    ):
        with pytest.raises(TrainingError, match="another of the processes") as caught:
            work()
        assert "same command continues" in caught.value.hint
