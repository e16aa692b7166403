"""References that share no code with the library."""
