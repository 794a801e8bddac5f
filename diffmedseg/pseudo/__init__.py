"""Pseudo masks for training images without true masks. They are filtered, and uncertain pixels are left out."""
