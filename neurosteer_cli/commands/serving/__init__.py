"""The commands that serve: serve and demo.

Knows their options and how a server is run. Knows nothing of requests.
"""
