"""What a network's output means and costs: head, tasks, target statistics, losses.

Knows no cell's inside and no learning rule.
"""
