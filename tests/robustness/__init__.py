"""Fuzzing of the readers (``make fuzz``) and killing of the commands (``make kill``)."""
