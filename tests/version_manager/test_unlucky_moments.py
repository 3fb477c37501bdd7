"""What changes, fails or forks in the middle of a save: told truly, and nothing stored is lost."""

import pytest
import torch
from torch import nn

from modelyard._core.errors import StorageError


def linear(value):
    layer = nn.Linear(3, 3)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def test_weights_that_changed_before_they_were_written_again_are_refused(registry, monkeypatch):
    blobs, model = registry.store.blobs, linear(0.0)
    put = blobs.put

    def put_lose_and_train(fill):
        ref = put(fill)
        monkeypatch.setattr(blobs, "put", put)
        blobs.remove(ref.digest)
        nn.init.ones_(model.weight)
        return ref

    monkeypatch.setattr(blobs, "put", put_lose_and_train)
    with pytest.raises(StorageError, match=r"changed while it was stored.*save again"):
        registry.save_model(model, "ppo")
    assert registry.list_versions() == []
    assert torch.equal(registry.load_model(registry.save_model(model, "ppo")).weight, model.weight)
