"""The method: rules (score → mask), selection (which weights), the mask set, and its optimizer.

It knows nothing of images, files or training loops.
"""
