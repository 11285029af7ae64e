"""How good are the features? k-NN, linear probe, intervals, and the rows that every adaptation is judged by."""
