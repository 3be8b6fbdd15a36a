"""One thread: the tensors here are small, and waiting for a second thread on a busy machine costs most of the time."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
