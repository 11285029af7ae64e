"""How good are the features? k-NN, linear probe, intervals, the four rows, the low-shot protocol.

PAPER section 7. Every figure is taken on features of un-augmented images in evaluation mode; every accuracy
carries a 95 % interval, every comparison is paired (the same test images under both networks).
"""
