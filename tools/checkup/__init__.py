"""The checks of `python -m tools.doctor`. Nothing here prints.

A check yields findings. What it imports may be broken; `finding.run_check` reports that as a finding too. TensorFlow
and PyAV are loaded by `probe` and `benchmarks.machine` alone, each call in a process of its own.
"""
