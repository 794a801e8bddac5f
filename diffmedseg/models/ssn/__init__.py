"""Stochastic Segmentation Networks."""
