"""Benchmarks of mjx_safety; run them from a checkout."""
