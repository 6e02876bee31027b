"""Reads PyTorch's files of weights without PyTorch, and without running code that such a file may name.

A pickle may call any function. The unpickler here allows only the few functions that a file of weights needs,
and replaces them by its own. The format is that of `torch.save` before PyTorch 1.6: four pickles (a magic
number, a version, facts about the machine, the tensors), the list of storages, and the bytes of each storage.
Source: `_legacy_save` in PyTorch's torch/serialization.py.
"""

from __future__ import annotations

import collections
import math
import os
import pickle
import stat
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ucf50_tfrecord.errors import UserError

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAX_FILE_BYTES = 1 << 30
_MAX_TENSORS = 1 << 16
_DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}


class _Storage(NamedTuple):
    key: str
    dtype: str
    size: int  # values, not bytes


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def load_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a PyTorch file.

    Args:
      path: a file that holds a dictionary from names to tensors (a state dict), as `torch.save` wrote it
        before PyTorch 1.6.

    Returns:
      A dictionary from each tensor's name to its values.

    Raises:
      UserError: if the file cannot be read, is too large, is damaged, or holds anything else than tensors.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE_BYTES:
                raise ValueError(f"expected a regular file of at most {_MAX_FILE_BYTES} bytes")
            return _load(file, status.st_size)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path} is not a PyTorch file of weights: {error}") from error


def _load(file: BinaryIO, num_bytes: int) -> dict[str, np.ndarray]:
    found = [_Unpickler(file).load() for _ in range(2)]
    if found != [_MAGIC, _VERSION]:
        raise ValueError(f"expected the format of torch.save before 1.6, found {found!r:.60}")
    _Unpickler(file).load()  # facts about the machine that wrote the file
    tensors, keys = _Unpickler(file).load(), _Unpickler(file).load()
    if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
        raise ValueError("expected a dictionary of tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if not isinstance(keys, list) or set(keys) != set(storages) or len(tensors) > _MAX_TENSORS:
        raise ValueError("expected a list of exactly the storages of its tensors")
    values = {}
    for key in keys:
        storage = storages[key]
        size = int.from_bytes(file.read(8), "little")
        width = np.dtype(storage.dtype).itemsize
        if size != storage.size or size * width > num_bytes:
            raise ValueError(f"expected {storage.size} values in the storage {key}, found {size}")
        values[key] = np.frombuffer(file.read(size * width), storage.dtype)  # fails if it is cut short
        if values[key].size != size:
            raise ValueError(f"the storage {key} is cut short")
    return {str(name): _view(tensor, values[tensor.storage.key]) for name, tensor in tensors.items()}


def _view(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """Returns a tensor's values; its storage may hold them in another order.

    Raises:
      ValueError: if the tensor reaches beyond its storage.
    """
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if len(tensor.shape) != len(tensor.strides) or any(number < 0 for number in numbers):
        raise ValueError(f"a tensor has the shape {tensor.shape} and the strides {tensor.strides}")
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides))
    if math.prod(tensor.shape) > values.size or last >= values.size:
        raise ValueError("a tensor reaches beyond its storage")
    strides = [stride * values.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)


class _Unpickler(pickle.Unpickler):
    """Unpickles tensors and plain values; refuses every other class and function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, requires_grad, hooks: tensor
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not needed to load tensors")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_class, key, _, size, view = pid
        if kind != "storage" or view is not None or not isinstance(size, int) or size < 0:
            raise pickle.UnpicklingError("it names a storage of an unknown form")
        return _Storage(str(key), _DTYPES[storage_class], size)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(isinstance(number, int) for number in numbers):
        raise pickle.UnpicklingError("it holds a tensor of an unknown form")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))
