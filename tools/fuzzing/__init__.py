"""The parts of tools/fuzz.py: a campaign of damaged and hostile files against the real programs.

Mutants: `seeds` (intact videos), `mutate` (damaged bytes), `hostile` (text files that name other files and
hosts), `samples` (intact JSON files), `documents` (damaged JSON).
Targets: `videos` (the converter, predict, and its decoder in `windows`), `jsons` (the functions and programs
of `readers`; `reading` calls the functions in a process of its own).
Checks: `watched` (processes, opened files, connections, folders), `judge` and `reference` (clips and pixels),
`findings` (counters).
"""
