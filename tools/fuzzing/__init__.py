"""The modules of tools/fuzz.py, which tries damaged and hostile files (mutants) on this project's programs.

Modules that make mutants: `seeds` (intact videos), `mutate` (damages bytes), `hostile` (text files that name
other files and hosts), `samples` (intact files of every kind that the project reads), `documents` (damages
JSON).
Modules that try mutants: `videos` (on the converter and predict; `windows` runs predict's decoder), `jsons`
(on the functions and programs listed in `readers`).
Modules that detect failures: `watched` (of processes; opened files, connections, changed folders), `judge`
and `reference` (wrong clips and pixels), `findings` (counts failures and keeps their mutants).
"""
