"""Models as ONNX graphs: write graphs, and segment with onnxruntime and NumPy alone.

Importing this package does not import torch. Writing graphs needs torch.
"""

from typing import TYPE_CHECKING

from diffmedseg.lazy import lazy_names

if TYPE_CHECKING:
    from diffmedseg.errors import ExportError as ExportError
    from diffmedseg.export.contract import Contract as Contract
    from diffmedseg.export.segmenter import ArraySegmentation as ArraySegmentation, OnnxSegmenter as OnnxSegmenter
    from diffmedseg.export.writing import export_onnx as export_onnx

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diffmedseg.errors": ["ExportError"],
        "diffmedseg.export.contract": ["Contract"],
        "diffmedseg.export.segmenter": ["ArraySegmentation", "OnnxSegmenter"],
        "diffmedseg.export.writing": ["export_onnx"],
    },
)
