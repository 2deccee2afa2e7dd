"""What is computed on the model beside texts: vectors are fitted, residuals averaged.

Knows the scheduler and how to take turns with what is written. Knows nothing of HTTP.
"""
