"""The server: decisions (pure), components (each with one `run`) and edges; tests/test_architecture.py lists them."""

__version__ = "0.1.0"
