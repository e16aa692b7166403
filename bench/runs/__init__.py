"""How things are measured, and the result files."""
