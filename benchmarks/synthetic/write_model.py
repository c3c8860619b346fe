"""Writes the file of a model: its header, then tensor by tensor."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from benchmarks.synthetic.block_formats import file_type, matrix_format, random_rows, row_bytes
from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.shapes.shape import Shape, Tensor, Values
from benchmarks.synthetic.vocabulary import Vocabulary, copied_vocabulary, is_plain
from tailrace.folders import cache_folder


def folder() -> Path:
    """The folder of the files."""
    return cache_folder() / "benchmarks"


def synthetic(name: str, vocabulary: Path, target: Path | None = None, *, weight_format: str = "") -> Path:
    """The file of the model ``name`` of SHAPES, with the vocabulary of the file ``vocabulary``; written if missing."""
    shape = SHAPES[name]
    title = f"synthetic-{name}-{weight_format}" if weight_format else f"synthetic-{name}"
    path = target or folder() / f"{title}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            write_model(unfinished, name, shape, copied_vocabulary(vocabulary, shape.vocabulary_size), weight_format)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def write_model(path: Path, name: str, shape: Shape, vocabulary: Vocabulary, weight_format: str = "") -> None:
    """Write the file of a model of this shape; its matrices have ``weight_format``, or the shape's own."""
    weight_format = weight_format or shape.weight_format
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name(f"synthetic {name}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(file_type(weight_format))
    shape.describe(writer)
    vocabulary.add_to(writer)
    tensors = list(shape.tensors(len(vocabulary.words)))
    for tensor in tensors:
        kind = _format(tensor, weight_format)
        *rows, columns = tensor.shape
        sizes = (*rows, row_bytes(kind, columns))
        writer.add_tensor_info(tensor.name, sizes, np.dtype(np.uint8), int(np.prod(sizes)), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    silent = np.array([not is_plain(word) for word in vocabulary.words])
    for tensor in tensors:
        contents = _contents(tensor, _format(tensor, weight_format), random)
        if tensor.name == "output.weight" and not silent.all():
            # A logit of 0 never wins: only whole characters are written, each reply runs on, and every token is
            # seen by a client that counts texts.
            contents[silent] = 0
        writer.write_tensor_data(contents)
    writer.close()


def _format(tensor: Tensor, weight_format: str) -> gguf.GGMLQuantizationType:
    if tensor.values is not Values.WEIGHTS:
        return gguf.GGMLQuantizationType.F32
    return matrix_format(tensor.weight_format or weight_format, tensor.name, tensor.shape[-1])


def _contents(
    tensor: Tensor, kind: gguf.GGMLQuantizationType, random: np.random.Generator
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    *rows, columns = tensor.shape
    match tensor.values:
        case Values.WEIGHTS:
            # One matrix of three dimensions at a time: experts are large.
            count = rows[0] if len(rows) > 1 else 1
            matrices = [random_rows(kind, random, rows[-1], columns, tensor.scale) for _ in range(count)]
            return np.stack(matrices) if len(rows) > 1 else matrices[0]
        case Values.FLOATS:
            return random.standard_normal(tensor.shape, np.float32) * np.float32(columns**-0.5 if rows else 1)
        case Values.NEGATIVE:
            return -np.abs(random.standard_normal(tensor.shape, np.float32))
        case Values.IDENTITY:
            return np.eye(rows[0], columns, dtype=np.float32)
        case Values.ONES:
            return np.ones(tensor.shape, np.float32)
