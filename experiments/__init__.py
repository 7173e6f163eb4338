"""The comparison of learning-rate decay, averaging and schedule-free: `python -m experiments --help`."""
