"""Damage anywhere in a sound file is an error of ours; what `torch.save` writes is sound."""

import io
import time

import numpy as np
import pytest
import torch
from hostile_archives import legacy_pickle, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from module_files import to_files
from torch import nn

from modelyard._core.errors import InputError, IntegrityError, ModelyardError
from modelyard.version_manager.archives import checked_archive
from modelyard.version_manager.module_format import load_module_file, rebuild
from modelyard.version_manager.payloads import decoded, encoded
from modelyard.version_manager.tensor_files import write_tensors


@st.composite
def damages(draw):
    """One change of a file: some bytes flipped, put in or taken out, anywhere."""
    kind = draw(st.sampled_from(["flip", "insert", "delete", "cut"]))
    return kind, draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=4))


def damaged(data, damage):
    kind, share, new = damage
    at = min(int(share * len(data)), len(data) - 1)
    if kind == "flip":
        end = min(at + len(new), len(data))
        flipped = bytes(old ^ (byte or 1) for old, byte in zip(data[at:end], new, strict=False))
        return data[:at] + flipped + data[end:]
    if kind == "insert":
        return data[:at] + new + data[at:]
    return data[:at] if kind == "cut" else data[:at] + data[at + len(new) :]


class Sample(nn.Module):
    """Something of everything that a description holds."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.register_buffer("scale", torch.ones(2), persistent=False)
        self.plain = torch.ones(3)
        self.means = np.ones(2, dtype=np.float32)
        self.options = {"sizes": (1, 2), 3: [None, 0.5, b"x", {1}], "act": torch.tanh}


def bytes_of(fill):
    buffer = io.BytesIO()
    fill(buffer)
    return buffer.getvalue()


def payload(value):
    encoding, fill = encoded(value, where="x")
    return encoding, bytes_of(fill)


VALUES = [
    np.arange(6.0).reshape(2, 3),
    {"a": [1, None, "x", 0.5]},
    {"a": torch.ones(2), "b": torch.zeros(0)},
    {"a": (torch.ones(2), 1), 3: np.ones(2), "c": [float("nan"), b"x", np.float32(1)]},
]
PAYLOADS = dict(map(payload, VALUES))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(damage=damages(), what=st.sampled_from(["module", "weights", "file"]))
def test_damaged_module_is_an_error_of_ours_or_still_a_module(damage, what, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    files = to_files(Sample())
    whole = {"module": files.description, "weights": bytes_of(write_tensors(files.tensors))}
    for name, data in whole.items():
        (folder / name).write_bytes(damaged(data, damage) if name == what else data)
    (folder / "file").write_bytes(damaged(SAVED, damage))
    try:
        if what == "file":
            found = load_module_file(folder / "file")
        else:
            found = rebuild(folder / "module", lambda: folder / "weights")
    except ModelyardError:
        return
    assert isinstance(found, nn.Module)


SAVED = saved(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))


@settings(max_examples=400, deadline=None)
@given(damage=damages(), encoding=st.sampled_from(sorted(PAYLOADS)))
def test_damaged_payload_is_an_error_of_ours_or_a_value(damage, encoding, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(damaged(PAYLOADS[encoding], damage))
    try:
        decoded(encoding, path)
    except ModelyardError as error:
        assert isinstance(error, IntegrityError)  # noqa: PT017 - a value is fine too


# ── what torch.save writes passes ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("target", ["file", "buffer"])
@pytest.mark.parametrize("folder", ["model.pt", "my model é.pth", "a.b.tar"])
def test_files_of_torch_pass_whatever_their_name(folder, target, tmp_path):
    model, path = nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 3)), tmp_path / folder
    if target == "file":
        torch.save(model, path)
    else:
        path.write_bytes(saved(model))
    found = load_module_file(path)
    assert list(found.state_dict()) == list(model.state_dict())


def test_odd_tensors_of_a_users_file_pass(tmp_path):
    model = nn.Module()
    base = torch.arange(12.0).reshape(3, 4)
    model.views = [base[1:], base.T, base[:, ::2], base[0].expand(5, 4), base[:0], base[2, 3]]
    model.register_buffer("conj", torch.ones(2, dtype=torch.complex64).conj())
    for dtype in (torch.bfloat16, torch.uint16, torch.float8_e4m3fn, torch.complex128):
        model.register_buffer(str(dtype).replace(".", "_"), torch.zeros(3).to(dtype))
    model.weight = nn.Parameter(torch.ones(2))
    model.weight.note = "kept"
    model.plain = torch.ones(2)
    model.plain.note = "kept"
    model.meta = torch.empty(3, 2, device="meta")
    path = tmp_path / "odd.pt"
    torch.save(model, path)
    found = load_module_file(path)
    assert all(torch.equal(a, b) for a, b in zip(found.views, model.views, strict=True))
    assert torch.equal(found.conj, model.conj)
    assert found.weight.note == found.plain.note == "kept"


@pytest.mark.slow
def test_many_tensors_pass(tmp_path):
    model = nn.ParameterList([torch.ones(1) for _ in range(3_000)])
    path = tmp_path / "many.pt"
    torch.save(model, path)
    assert len(load_module_file(path)) == 3_000


def test_users_file_of_an_old_torch_says_what_to_do(tmp_path):
    path = tmp_path / "old.pt"
    path.write_bytes(legacy_pickle())
    with pytest.raises(InputError, match=r"no archive as torch\.save writes it.*once more"):
        load_module_file(path)


def test_no_such_file_is_said(tmp_path):
    with pytest.raises(InputError, match=r"no file that torch\.save wrote.*No such file"):
        load_module_file(tmp_path / "none.pt")


@pytest.mark.slow
def test_checking_an_archive_costs_well_under_a_millisecond(tmp_path):
    path = tmp_path / "module.pt"
    path.write_bytes(to_files(nn.Sequential(*[nn.Linear(8, 8) for _ in range(20)])).description)
    checked_archive(path)
    start = time.perf_counter()
    for _ in range(100):
        checked_archive(path)
    assert (time.perf_counter() - start) / 100 < 0.5e-3
