"""The checks of `python -m tools.doctor`, one per module. None of them prints.

A check is a generator of findings. If a package that it imports is broken, `finding.run_check` reports that
as a finding too. Only `probe` and `benchmarks.machine` load TensorFlow or PyAV, and each call of their
functions runs in a process of its own.
"""
