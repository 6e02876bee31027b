import errno
import os

import pytest

from ucf50_tfrecord import texts


@pytest.mark.parametrize(
    "message, reason",
    [
        (
            "{{function_node __wrapped__ReadFile_device_/job:localhost/replica:0/task:0/device:CPU:0}} /x; "
            "No such file or directory [Op:ReadFile] name: ",
            "/x; No such file or directory",
        ),
        (
            "Graph execution error:\n\nDetected at node add defined at (most recent call last):\n"
            "<stack traces unavailable>\nOOM when allocating tensor with shape[9] by allocator cpu\n"
            "\t [[{{node add}}]]\nHint: If you want to see a list of allocated tensors when OOM happens, add more\n"
            " [Op:__inference_traced_12]",
            "OOM when allocating tensor with shape[9] by allocator cpu",
        ),
        (
            "Graph execution error:\n\nDetected at node 'a/b' defined at (most recent call last):\n"
            "  File \"/home/x.py\", line 3, in main\n    main()\nNode: 'a/b'\n2 root error(s) found.\n"
            "  (0) RESOURCE_EXHAUSTED:  OOM when allocating\n\t [[{{node a/b}}]]\n  (1) CANCELLED:  no\n"
            "0 successful operations.",
            "OOM when allocating",
        ),
        (
            "{{function_node __wrapped__IteratorGetNext}} Error in user-defined function passed to MapDataset:1 "
            "transformation with iterator: Iterator::Root::Map: Expected image (JPEG, PNG, or GIF), got unknown\n"
            "\t [[{{node DecodeJpeg}}]] [Op:IteratorGetNext] name: ",
            "Expected image (JPEG, PNG, or GIF), got unknown",
        ),
        ("", "ValueError"),
        ("plain, with [brackets] and {braces}", "plain, with [brackets] and {braces}"),
    ],
)
def test_reasons_leave_out_details_for_tensorflows_developers(message, reason):
    assert texts.tensorflow_reason(ValueError(message)) == reason


def test_a_full_disk_is_distinguished_from_exhausted_memory():
    full = ValueError(
        f"/runs/a; {os.strerror(errno.ENOSPC)}\n\tCould not flush events file. [Op:Flush] name: "
    )
    assert texts.file_problem(full) == "/runs/a: No space left on device"
    assert texts.file_problem(ValueError("OOM when allocating tensor; by allocator cpu")) is None
