"""Metrics, events and log lines: declared here, set where things happen.

Does not know the components that report, nor who may read.
"""
