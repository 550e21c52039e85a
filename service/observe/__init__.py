"""Metrics, events and log lines: declared here, set where things happen.

Of the components that report it knows only the form of a trainer's progress report; it does not know who may read.
"""
