"""The commands of `python -m costmodel`, one a file: `add` its words, `run` it.

Nothing heavy is imported before a command runs, so that --help is quick.
"""
