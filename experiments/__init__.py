"""The comparison of learning-rate decay, averaging and schedule-free: `python -m experiments --help`.

`tasks`: data and models; `reports`: tables, claims and figures from measurements; `studies`: what is compared;
`engine`: training; `evidence`: comparisons of theory with trained runs; `commands`: the command line. A package imports
only packages that come before it in this list, and the files in this folder.
"""
