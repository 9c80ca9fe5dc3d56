"""What runs models: the contract of an engine, three kinds of it, and the store that makes their samples durable."""
