"""The picture of a graph: everything is on it once, and it needs nothing but itself."""

import re
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from modelyard._core.errors import ConfigError, InputError, NotFoundError
from modelyard.export import ModelExporter
from modelyard.export.profiling import median_times
from modelyard.export.visualization import Box, boxes_and_links, laid_out


@pytest.fixture
def path(tmp_path):
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    return ModelExporter(tmp_path).export_to_onnx(model, "encoder", (1, 5, 8))


def test_every_operator_is_drawn_with_its_time(path):
    page = Path(ModelExporter().visualize(path))
    assert page.name == "encoder.html"
    text = page.read_text()
    drawn = [n for n in onnx.load(path).graph.node if n.op_type != "Constant"]
    assert text.count("<g id=") == len(drawn) + 2
    assert "/self_attn/Softmax" in text
    assert re.search(r"One run takes \d+ µs", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert "<script" not in text


def test_without_a_profile_nothing_is_run(path, tmp_path):
    page = ModelExporter().visualize(path, tmp_path / "deep" / "page.html", profile=False)
    assert page == str(tmp_path / "deep" / "page.html")
    assert "Not profiled" in Path(page).read_text()


def test_the_model_is_not_written_over(path):
    before = Path(path).read_bytes()
    with pytest.raises(ConfigError, match=r"must end in \.html"):
        ModelExporter().visualize(path, path)
    assert Path(path).read_bytes() == before


def test_names_cannot_write_into_the_page(tmp_path):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["<script>"], ["y"], name='"><script>alert(1)</script>')],
        "g",
        [value("<script>", 1, [2])],
        [value("y", 1, [2])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "x.onnx")
    assert "<script" not in Path(ModelExporter().visualize(tmp_path / "x.onnx")).read_text()


def test_inputs_that_cannot_be_made_up_are_told(tmp_path):
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 4)

        def forward(self, x):
            return self.table(x).reshape(x.shape[0], -1)[:, 7:]

    path = ModelExporter(tmp_path).export_to_onnx(
        Looks(), "net", example_input=torch.zeros(2, 2, dtype=torch.long)
    )
    ModelExporter().visualize(path)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError, match="is no ONNX model"):
        ModelExporter().visualize(tmp_path / "text.onnx")
    with pytest.raises(NotFoundError, match="no file"):
        ModelExporter().visualize(tmp_path / "absent.onnx")


def test_a_graph_too_large_for_a_picture_is_refused(path, monkeypatch):
    monkeypatch.setattr("modelyard.export.visualization._MOST_NODES", 3)
    with pytest.raises(ConfigError, match="a picture holds 3"):
        ModelExporter().visualize(path)


def test_times_are_medians_of_the_kernels():
    events = [{"cat": "Node", "name": "a_kernel_time", "dur": dur} for dur in (1, 100, 3)] + [
        {"cat": "Node", "name": "a_fence_before", "dur": 9},
        {"cat": "Session", "name": "x"},
    ]
    assert median_times(events) == {"a": 3.0}


@example(n=6, pairs=[(0, 1), (0, 2), (1, 2)])
@example(n=6, pairs=[(0, 5), (1, 2), (1, 4), (2, 3), (3, 4)])
@given(
    n=st.integers(1, 12),
    pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=25),
)
def test_what_feeds_stands_above_what_is_fed_and_no_two_boxes_overlap(n, pairs):
    links = list({(min(p), max(p)) for p in pairs if p[0] != p[1] and max(p) < n})
    boxes = [
        Box(key=i, title="op", name=str(i), kind="operator", microseconds=None, share=0.0)
        for i in range(n)
    ]
    placed, lines, (width, height) = laid_out(boxes, links)
    assert len(lines) == len(links)
    for a, b in links:
        assert placed[a].y < placed[b].y
    places = [(box.x, box.y) for box in placed]
    for i, (x, y) in enumerate(places):
        assert 0 <= x < width
        assert 0 <= y < height
        assert all(abs(x - u) >= 132 or abs(y - v) >= 34 for u, v in places[i + 1 :])


def test_branches_are_linked_to_what_they_use():
    value = onnx.helper.make_tensor_value_info
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["a"], ["r"])], "then", [], [value("r", 1, [2])]
    )
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Neg", ["x"], ["a"], name="neg"),
            onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        ],
        "g",
        [value("x", 1, [2]), value("c", 9, [])],
        [value("y", 1, [2])],
    )
    boxes, links = boxes_and_links(graph, {})
    by_title = {box.title: box.key for box in boxes}
    assert (by_title["Neg"], by_title["If"]) in links
