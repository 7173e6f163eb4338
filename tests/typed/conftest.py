"""These programs are for type checkers: `tests/test_typing.py` has them read, and runs the one that can run."""

collect_ignore_glob = ["*.py"]
