"""The command line: one small file per command; render.py alone knows about terminals and JSON."""
