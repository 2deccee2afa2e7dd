"""What requests and answers look like: OpenAI's API, Ollama's, and ours beside them.

Knows JSON's types and bounds, neutral values, and continuations as they are given out. Knows nothing of
HTTP, models or vectors. To serve a field more, declare it in its form and take it out of `unserved`.
"""
