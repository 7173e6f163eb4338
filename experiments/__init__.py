"""The comparison of learning-rate decay, averaging and schedule-free: `python -m experiments --help`.

`tasks` are what is trained, `reports` what is made of measurements, `studies` what is compared, `engine` what trains,
`commands` what can be asked for. Each of these rooms knows only those before it; all of them know the files here.
"""
