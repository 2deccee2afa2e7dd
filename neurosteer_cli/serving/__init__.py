"""Requests to text: a server for OpenAI's and Ollama's clients in which every request may be steered.

Knows vectors by name and one thread that owns the model; what is said over HTTP, and where, is for
`protocol`, `http` and `routes` to know. Knows nothing of evaluation or reports.
"""
