"""Numbers from texts and models: likelihood, diversity, ability, and how sure they are.

Knows the engine and arithmetic; knows nothing of conditions, judges or files.
"""
