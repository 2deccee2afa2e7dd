"""The forms in which libraries keep SAEs: read as they compute them, or refused by name.

Each reader gives sae-lens 6's entries and weights, of which `state` makes an SAE. Knows nothing of models.
"""
