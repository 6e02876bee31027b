"""Checks how far the Linux kernel restricts the processes that decode videos."""

from __future__ import annotations

from collections.abc import Iterator

from tools.checkup.finding import Finding, Options, ok, warn


def check(options: Options) -> Iterator[Finding]:
    """Starts a process in the way that decoding does, and yields a finding on its restrictions."""
    from ucf50_tfrecord import workers
    from ucf50_tfrecord.specs import DecodeLimits

    with workers.IsolatedPool.within(DecodeLimits()) as pool:
        sandbox = pool.start()
    files = f"Landlock, version {sandbox.landlock_abi} (files)" if sandbox.landlock_abi else ""
    calls = "seccomp (sockets, programs, other processes)" if sandbox.seccomp else ""
    in_force = " and ".join(filter(None, (files, calls)))
    if files and calls:
        yield ok(f"processes that decode videos are restricted by {in_force}")
    else:
        yield warn(
            f"processes that decode videos are restricted by {in_force or 'nothing'}: the kernel or the "
            "container's profile does not offer more",
            "convert untrusted videos on Linux 5.13 or later with Landlock switched on",
        )
