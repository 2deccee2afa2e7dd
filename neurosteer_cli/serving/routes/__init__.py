"""What is answered at which path.

Knows FastAPI; what requests mean is for completions, registry and fitting to know.
"""
