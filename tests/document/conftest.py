"""Both import paths, and a policy of one's own as somebody who follows the document has it."""

import importlib

import pytest
import torch
from own_policy import Policy


@pytest.fixture(autouse=True)
def one_thread():
    """Small models train no faster with more, and far slower beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["modelyard", pytest.param("src.models", marks=pytest.mark.slow)])
def home(request, tmp_path, monkeypatch):
    """A module of the seven by its name, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda name: importlib.import_module(f"{request.param}.{name}")


@pytest.fixture
def new_policy():
    def made(hidden_dim=32, seed=0):
        torch.manual_seed(seed)
        return Policy(hidden_dim).eval()

    return made


@pytest.fixture
def state():
    """`n` market states."""

    def made(n=1, seed=0):
        return torch.randn(n, 263, generator=torch.Generator().manual_seed(seed))

    return made
