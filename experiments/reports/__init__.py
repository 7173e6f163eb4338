"""What was measured, and what is made of it: sections of a report, claims and figures, of any study."""
