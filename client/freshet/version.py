"""The version of both distributions, freshet and freshet-server: its one place. CONTRIBUTING.md says how to release."""

__version__ = "0.1.0"
