"""What is said about self-attention, each sentence as an experiment: ``python -m claims`` writes docs/claims.md anew.

A claim is a module with a function ``examine`` that takes a `Lab`, which trains what it is asked for and remembers it,
and returns a `Section` of the page.
"""
