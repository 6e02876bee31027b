"""The checks of `python -m tools.doctor`, one per module. None of them prints.

A check is a generator of findings. If a package that it imports is broken, `finding.run_check` reports that
as a finding too. Whatever loads TensorFlow or PyAV, such as `probe` and `benchmarks.machine`, is called in a
process of its own.
"""
