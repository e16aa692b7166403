"""A build with ThreadSanitizer, and what the threads do in it."""
