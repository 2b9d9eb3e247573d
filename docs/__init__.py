"""The documentation site: its pages, and ``generator``, which writes parts of them from the code."""
