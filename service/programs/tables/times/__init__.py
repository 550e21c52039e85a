"""Times in a column: formats, zones and the order of rows.

Knows no table; errors name an invalid value by its text.
"""
