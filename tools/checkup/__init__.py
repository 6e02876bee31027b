"""The checks of `python -m tools.doctor`. Nothing here prints.

A check yields findings. Its imports may be broken; `finding.run_check` reports that as a finding too. Only
`probe` and `benchmarks.machine` load TensorFlow or PyAV, each call in a process of its own.
"""
