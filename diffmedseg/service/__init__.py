"""The service: segment pictures and volumes over HTTP. ``diffmedseg serve`` starts it; it needs the extra ``serve``."""
