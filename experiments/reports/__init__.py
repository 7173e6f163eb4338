"""Measurements, and the sections, claims and figures of a report that any study makes from them."""
