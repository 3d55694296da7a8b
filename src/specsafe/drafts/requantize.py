"""Make a quantized draft from a model that is at hand: the same network with its matrices stored in another type.

What was quantized once is quantized again, so the draft is the target with rounding of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from specsafe.drafts.layers import copy_metadata
from specsafe.errors import UserError
from specsafe.models.gguf_file import read_gguf

# The types that gguf's own quantizer writes: blocks of 32 weights with a scale.
TYPES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
_BLOCK = 32


def requantize(source: Path, name: str, destination: Path) -> Path:
    """Write `destination`: `source` with every quantized or 16-bit matrix in the type `name`; vectors stay as they are.

    Matrices whose rows are no whole number of blocks stay too. Raises UserError for an unknown type or a file that is no
    GGUF. The write is atomic.
    """
    import gguf

    require_type(name)
    kind = gguf.GGMLQuantizationType[name.upper()]
    reader = read_gguf(source)
    temporary = destination.with_suffix(f".{os.getpid()}.part")
    writer = gguf.GGUFWriter(temporary, str(reader.fields["general.architecture"].contents()))
    copy_metadata(reader, writer, {})
    for tensor in reader.tensors:
        if len(tensor.shape) < 2 or int(tensor.shape[0]) % _BLOCK:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        rows = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        writer.add_tensor(tensor.name, gguf.quants.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return temporary.replace(destination)


def require_type(name: str) -> None:
    """Raise UserError for a type that is not one of TYPES."""
    if name not in TYPES:
        raise UserError(f"cannot store a model as {name!r}", f"use one of: {', '.join(TYPES)}")
