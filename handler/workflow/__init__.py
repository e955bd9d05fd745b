"""The stored workflow as data, and what callers may set in it: no I/O, clock, environment or randomness."""
