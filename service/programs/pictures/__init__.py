"""What is drawn of a replay: a backtest's forecasts and errors, or what a journal taught, as figures of `plots`.

Collects while the replay runs; changes nothing that it computes, and starts nothing.
"""
