"""Options → configuration → one call → print."""
