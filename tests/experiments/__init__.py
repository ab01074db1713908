"""Scripts that measure or prepare what a benchmark has no time for; each takes arguments."""
