"""MedSegDiff (Wu et al. 2022, 2023)."""
