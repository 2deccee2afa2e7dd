"""How requests come in over HTTP, and how answers and refusals go out.

Knows FastAPI, ASGI and every error that a request may meet. Knows nothing of paths, or of what is asked.
"""
