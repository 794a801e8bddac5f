"""The supervised control."""
