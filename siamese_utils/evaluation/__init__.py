"""Every number of the protocol, from embeddings, with its interval."""
