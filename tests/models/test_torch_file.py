"""Weight files of PyTorch, written here byte by byte, since PyTorch is not installed."""

import io
import pickle
import struct

import numpy as np
import pytest

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.models import torch_file


class _Global:
    """Pickles as the name of a class or function, which need not exist."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class _Call:
    def __init__(self, module: str, name: str, *arguments):
        self.function, self.arguments = _Global(module, name), arguments


class _Storage:
    def __init__(self, kind: str, key: str, size: int):
        self.pid = ("storage", _Global("torch", kind), key, "cpu", size, None)


class _Pickler(pickle._Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, _Storage) else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, _Global):
            return self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        if isinstance(value, _Call):
            self.save(value.function)
            self.save(value.arguments)
            return self.write(b"R")
        return super().save(value, save_persistent_id)


def tensor(storage, shape, strides, offset=0):
    return _Call("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, {})


def write(path, tensors, storages, *, magic=torch_file._MAGIC):
    """Writes a file as torch.save did before PyTorch 1.6. storages: values by key."""
    file = io.BytesIO()
    for part in (magic, torch_file._VERSION, {"little_endian": True}, tensors, sorted(storages)):
        _Pickler(file, protocol=2).dump(part)
    for key in sorted(storages):
        file.write(struct.pack("<q", len(storages[key])) + storages[key].tobytes())
    path.write_bytes(file.getvalue())
    return path


def write_one(path, tensor_of_storage, size=6):
    values = np.arange(size, dtype="<f4")
    return write(path, {"w": tensor_of_storage(_Storage("FloatStorage", "0", size))}, {"0": values})


def test_tensors_are_read_in_the_layout_that_their_strides_state(tmp_path):
    first, second = np.arange(6, dtype="<f4"), np.array([7], "<i8")
    path = write(
        tmp_path / "w.pth",
        {
            "rows": tensor(_Storage("FloatStorage", "0", 6), (2, 3), (3, 1)),
            "columns": tensor(_Storage("FloatStorage", "0", 6), (3, 2), (1, 3)),
            "part": tensor(_Storage("FloatStorage", "0", 6), (2,), (1,), offset=4),
            "count": tensor(_Storage("LongStorage", "1", 1), (), ()),
        },
        {"0": first, "1": second},
    )
    found = torch_file.load_weights(path)
    np.testing.assert_array_equal(found["rows"], first.reshape(2, 3))
    np.testing.assert_array_equal(found["columns"], first.reshape(2, 3).T)
    np.testing.assert_array_equal(found["part"], [4, 5])
    assert found["count"] == 7


def test_a_file_that_calls_a_function_is_refused_and_calls_nothing(tmp_path):
    touched = tmp_path / "touched"
    path = write(tmp_path / "w.pth", {"w": _Call("os", "mkdir", str(touched))}, {})
    with pytest.raises(UserError, match="it names os.mkdir, which is not needed to load tensors"):
        torch_file.load_weights(path)
    assert not touched.exists()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda storage: tensor(storage, (3, 3), (3, 1)), "beyond its storage"),
        (lambda storage: tensor(storage, (2,), (1,), offset=5), "beyond its storage"),
        (lambda storage: tensor(storage, (2,), (-1,), offset=5), "the strides"),
        (lambda storage: tensor(storage, (1 << 40, 1 << 40), (0, 0)), "beyond its storage"),
        (lambda storage: tensor(storage, (2,), (1, 1)), "the strides"),
        (lambda storage: tensor("no storage", (2,), (1,)), "unknown form"),
        (lambda storage: [1], "a dictionary of tensors"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, make, message):
    with pytest.raises(UserError, match=f"w.pth is not a PyTorch file of weights: .*{message}"):
        torch_file.load_weights(write_one(tmp_path / "w.pth", make))


def test_a_damaged_file_is_refused_at_every_length(tmp_path):
    whole = write_one(tmp_path / "w.pth", lambda storage: tensor(storage, (6,), (1,))).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "w.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match="is not a PyTorch file of weights"):
            torch_file.load_weights(tmp_path / "w.pth")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="Cannot read .*none.pth: No such file"):
        torch_file.load_weights(tmp_path / "none.pth")
    path = write(tmp_path / "w.pth", {}, {}, magic=1)
    with pytest.raises(UserError, match="expected the format of torch.save before 1.6"):
        torch_file.load_weights(path)
