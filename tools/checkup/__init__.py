"""What `make doctor` looks at. Nothing here prints.

A check yields findings. It may raise, and what it imports may be broken: `finding.run_check` makes a line of that.
Only `probe` and `speed` run TensorFlow or PyAV, each in a process of its own.
"""
