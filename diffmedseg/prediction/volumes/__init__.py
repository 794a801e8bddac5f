"""Segmenting volumes."""
