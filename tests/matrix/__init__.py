"""The matrix of bad input: what a person can get wrong, and what is answered.

The answers stand in docs/troubleshooting.md, which tests/integration/test_bad_input.py compares with what it is told.
"""
