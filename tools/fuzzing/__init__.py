"""The parts of tools/fuzz.py: a campaign of damaged and hostile files against the real programs.

Mutants: `seeds` (sound videos), `mutate` (damages bytes), `hostile` (text files that name other files and hosts),
`documents` (damages JSON). What they meet: `videos` (the converter and predict), `readers` (functions and programs
that read JSON; `reading` calls them in a process of its own). What is watched: `watched` (processes, opened files,
connections, folders), `reference` (pixels). `findings` counts.
"""
