"""Segmenting pictures."""
