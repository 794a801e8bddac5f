"""Prediction of volumes."""
