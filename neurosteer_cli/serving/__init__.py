"""Requests to text: an OpenAI-compatible server in which every request may be steered.

Knows HTTP, vectors and one thread that owns the model. Knows nothing of evaluation or reports.
"""
