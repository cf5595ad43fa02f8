"""Benchmarks; each one is a program: python -m bench.NAME."""
