"""Times in a column: formats, moments, zones and the order of rows.

Knows no table; a wrong value is named by its text.
"""
