"""Removes rights of the current process for good: to files through Landlock, to system calls through seccomp.

This is for processes that parse untrusted files. Such a process keeps its open files, and may still read the
libraries that it runs. Both mechanisms need no privileges, only a recent kernel (Linux 5.13 for Landlock,
3.17 for seccomp filters). They are called through ctypes: PyPI has no maintained package for Landlock, and
the package for seccomp needs a system library that slim images lack.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import platform
import struct
import sys
import sysconfig
from collections.abc import Container, Iterable
from typing import NoReturn

# include/uapi/linux/landlock.h. Each version of the interface (ABI) adds rights.
_FS_EXECUTE, _FS_READ_FILE, _FS_READ_DIR = 1 << 0, 1 << 2, 1 << 3
_NUM_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # later versions have as many as the last one
_NET_BIND_TCP, _NET_CONNECT_TCP = 1 << 0, 1 << 1  # from version 4 on
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1  # from version 6 on
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1 << 0, 1
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446

# include/uapi/linux/prctl.h, seccomp.h, filter.h and audit.h.
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_LOAD_WORD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENT_OFFSET = 0, 4, 16  # in struct seccomp_data
_X32_SYSCALL_BIT = 0x40000000
_CLONE_THREAD = 0x00010000

# Refused system calls: their numbers on x86-64 and on AArch64; None if the call does not exist there.
_REFUSED = {
    # Sockets. Sockets that are open already can still send and receive.
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "bind": (49, 200),
    "listen": (50, 201),
    "socketpair": (53, 199),
    "accept4": (288, 242),
    # Asynchronous I/O, which would bypass this filter.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Programs and other processes.
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "tkill": (200, 130),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    # Changes of files that Landlock does not cover.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    # The system.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
}
# Calls that are refused unless their first argument is this process's id; below, calls that start threads.
_KILL, _TGKILL, _PRLIMIT64 = (62, 129), (234, 131), (302, 261)
_CLONE, _CLONE3 = (56, 220), (435, 435)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restrictions:
    """The restrictions that are in force in a process.

    landlock_abi: version of the kernel's Landlock interface; 0 if files are not restricted.
    seccomp: whether system calls are filtered.
    """

    landlock_abi: int = 0
    seccomp: bool = False


def enter() -> Restrictions:
    """Restricts this process to its open files, for good, as far as the kernel can.

    Afterwards the process can still use its open files and sockets, read below `library_folders`, allocate
    memory, start threads, and send signals to itself. A process that already has several threads is not
    restricted, because its other threads would stay unrestricted.

    Returns:
      The restrictions that are now in force.
    """
    has_threads = len(os.listdir("/proc/self/task")) > 1
    if has_threads or _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return Restrictions()
    return Restrictions(landlock_abi=_restrict_files(library_folders()), seccomp=_filter_system_calls())


def run_program(command: list[str]) -> NoReturn:
    """Replaces this process by a program that can read files and use its open files, as far as the kernel can.

    The program cannot write or make other files, use the network, or start further processes.

    Args:
      command: the program's path and its arguments.

    Raises:
      OSError: if the program cannot be started.
    """
    if not _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        _restrict_files(["/"], _FS_EXECUTE)
        _filter_system_calls(allowed={"execve"})
    os.execv(command[0], command)


def library_folders() -> list[str]:
    """Returns the folders of this process's libraries, and files that they read, such as /dev/urandom."""
    paths = sysconfig.get_paths()
    return [
        *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        # More package folders: those of the distribution, or of the environment that this one is based on.
        *(path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")),
        os.path.dirname(os.path.abspath(__file__)),
        *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", os.path.join(sys.base_prefix, "lib")),
        *("/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom", "/sys/devices/system/cpu"),
        f"/proc/{os.getpid()}",
    ]


def _restrict_files(readable: Iterable[str], more_rights: int = 0) -> int:
    """Uses Landlock to forbid this process to open files by path, except to read some files and folders.

    Args:
      readable: the paths of folders and files that stay readable.
      more_rights: rights to these that stay besides reading.

    Returns:
      The version of the kernel's Landlock interface; 0 if access could not be denied.
    """
    abi = max(0, _libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))
    if not abi:
        return 0
    every_right = (1 << _NUM_FS_RIGHTS.get(abi, max(_NUM_FS_RIGHTS.values()))) - 1
    network = _NET_BIND_TCP | _NET_CONNECT_TCP if abi >= 4 else 0
    scopes = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if abi >= 6 else 0
    attributes = struct.pack("=QQQ", every_right, network, scopes)
    # Older kernels know only the first fields of this structure.
    attributes = attributes[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return 0
    try:
        for path in dict.fromkeys(readable):
            _allow_reading(ruleset, path, more_rights)
        return 0 if _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) else abi
    finally:
        os.close(ruleset)


def _allow_reading(ruleset: int, path: str, more_rights: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # the path does not exist
    try:
        rights = more_rights | _FS_READ_FILE | (_FS_READ_DIR if os.path.isdir(path) else 0)
        rule = struct.pack("=Qi", rights, file)
        if _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(file)


class _Filter(ctypes.Structure):
    """The C structure `sock_fprog`: a filter program of seccomp."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def _filter_system_calls(allowed: Container[str] = ()) -> bool:
    """Makes the system calls fail that decoding does not need. Returns whether the filter is in force.

    Args:
      allowed: names of refused calls that are allowed nevertheless.
    """
    machine = _ARCHITECTURES.get(platform.machine())
    if machine is None or sys.maxsize < 1 << 32:
        return False
    program = _program(*machine, os.getpid(), allowed)
    filter_ = _Filter(len(program) // 8, program)
    return _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0) == 0


def _program(column: int, architecture: int, pid: int, allowed: Container[str] = ()) -> bytes:
    """Returns the seccomp filter as a program in classic BPF. Refused system calls fail with EPERM.

    Args:
      column: column of the tables above that holds the machine's system call numbers.
      architecture: the kernel's number for the machine's architecture.
      pid: id of this process.
      allowed: names of refused calls that are allowed nevertheless.
    """
    refused = _ERRNO | _EPERM
    code = [
        _instruction(_LOAD_WORD, _ARCHITECTURE_OFFSET),
        _instruction(_JUMP_EQUAL, architecture, if_true=1),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD_WORD, _NUMBER_OFFSET),
        _instruction(_JUMP_GREATER_EQUAL, _X32_SYSCALL_BIT, if_false=1),
        _instruction(_RETURN, refused),
    ]
    for name, numbers in _REFUSED.items():
        if numbers[column] is not None and name not in allowed:
            code += [
                _instruction(_JUMP_EQUAL, numbers[column], if_false=1),
                _instruction(_RETURN, refused),
            ]
    # Without clone3, glibc starts threads by clone, whose flags a filter can check.
    code += [
        _instruction(_JUMP_EQUAL, _CLONE3[column], if_false=1),
        _instruction(_RETURN, _ERRNO | _ENOSYS),
    ]
    code += _unless(_CLONE[column], _instruction(_JUMP_ANY_BIT, _CLONE_THREAD, if_true=1), refused)
    for numbers in (_KILL, _TGKILL):
        code += _unless(numbers[column], _instruction(_JUMP_EQUAL, pid, if_true=1), refused)
    # The process id 0 means the calling process.
    code += _unless(_PRLIMIT64[column], _instruction(_JUMP_EQUAL, 0, if_true=1), refused)
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _unless(number: int, condition: bytes, otherwise: int) -> list[bytes]:
    """Returns the instructions that refuse a system call unless its first argument meets a condition.

    Args:
      number: number of the system call.
      condition: a jump instruction that skips one instruction if the argument meets the condition.
      otherwise: the filter's result for a refused call.
    """
    return [
        _instruction(_JUMP_EQUAL, number, if_false=4),
        _instruction(_LOAD_WORD, _ARGUMENT_OFFSET),
        condition,
        _instruction(_RETURN, otherwise),
        _instruction(_RETURN, _ALLOW),
    ]


def _instruction(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """Returns one BPF instruction, a C structure `sock_filter`.

    A jump skips `if_true` instructions if its condition holds, else `if_false` instructions.
    """
    return struct.pack("=HBBI", code, if_true, if_false, operand)


if __name__ == "__main__":
    run_program(sys.argv[1:])
