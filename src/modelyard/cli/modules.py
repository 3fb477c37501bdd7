"""A module that a command names: a file, or a function that makes it."""

from pathlib import Path

import onnx
from torch import nn

from modelyard._core.errors import InputError
from modelyard.export.inspection import read_graph
from modelyard.pipeline.loading import load_user_model
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.version_manager import load_module_file


def module_of(spec: str) -> nn.Module:
    """The module of a file or of `package.module:factory`.

    Raises:
        ConfigError: Neither is there.
        InputError: It gives no module.
        UntrustedClassError: A file is made of other classes than torch.nn's.
    """
    return module_in(Path(spec)) if Path(spec).is_file() else load_user_model(spec)


def module_in(file: Path) -> nn.Module:
    """The module of an ONNX file, or of what `torch.save(module)` wrote, read without its code.

    Raises:
        InputError: It is neither.
        UntrustedClassError: It is made of other classes than torch.nn's.
    """
    if file.suffix == ".onnx":
        graph = read_graph(file)
        try:
            onnx.checker.check_model(graph)
        except onnx.checker.ValidationError as error:
            raise InputError(f"{str(file)!r} is no sound ONNX model: {error}") from error
        return OnnxModule(graph.SerializeToString())
    return load_module_file(file).eval()
