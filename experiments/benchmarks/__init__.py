"""Measurements: each script writes JSON into results/, with shapes, versions and device beside the figures."""
