"""How fast it is: beside the libraries that a user would take, beside the machine's floor, by size.

In reading order: `cases` what is asked of each side; `timing` turns, here or in a process each, and
ratios; `workload` models and prompts; `sampling`, `steps` and `floor` the sides; `measure` all of
it, kept as one table; `reading` what is read off that table, `figures` what is drawn of it.
"""
