"""Pools: windowed, global and adaptive."""
