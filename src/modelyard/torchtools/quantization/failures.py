"""What is told of a quantizer that fails."""

from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from modelyard.torchtools.quantization.layers import Source
from modelyard.torchtools.quantization.recipes import Recipe


def failure_told(source: Source, recipe: Recipe, error: Exception) -> str:
    """What to say of a quantizer, or of a runtime that looks at the data for it, that fails."""
    # The first line: quantizers raise with dumps of the graph.
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if isinstance(error, InvalidArgument) and "invalid dimensions" in str(error):
        return (
            f"The data has other sizes than the example that the graph was made with: {reason}. "
            "All but the batch are fixed: pass data of one length (padded or cut) as "
            "validation_data, calibration_data and example_input."
        )
    is_of_graph = type(error).__module__.startswith("onnx")
    remedy = "another opset, 14 or newer, or another method" if is_of_graph else "another method"
    return (
        f"ONNX Runtime does not quantize this graph (opset {source.opset}) by {recipe.name}: "
        f"{reason}. Try {remedy}."
    )
