"""The command line: one file per verb. `main` lists the verbs; the programs do the work.

No other room imports it.
"""
