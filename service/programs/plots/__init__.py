"""Pictures of a replay, each one self-contained file: SVG, a page, or PNG.

Knows figures only, neither forecasts nor servers. Files hold what they show: they load nothing and run no script.
"""
