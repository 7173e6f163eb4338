"""What can be asked for on the command line: a file for each command, and for what they share."""
