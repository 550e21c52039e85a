"""Everything that is seen of a model: ticks and forecasts, a ghost, errors, gradients, states, versions, samples.

Reads what serving and learning have anyway, only while there is a viewer, and changes nothing. Knows nothing of HTTP.
Adds nothing to the path of a tick: the loop copies little, a thread computes and encodes.
"""
