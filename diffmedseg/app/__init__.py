"""The browser app: segment, look, compare, correct. ``diffmedseg app`` starts it; it needs the extra ``app``."""
