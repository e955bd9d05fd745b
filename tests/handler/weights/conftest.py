import os

import pytest
from weight_server import WeightServer

from handler.weights import download, transfer


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(transfer, "WAIT_S", 0.01)
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 0.4)


@pytest.fixture
def server():
    with WeightServer() as running:
        yield running


@pytest.fixture
def mirror():
    with WeightServer() as running:
        yield running
