"""Several processes and machines, by Ray: the connection, and workers that make the parts of a file of embeddings."""
