"""The policy contract: the language, its gate, its compiler."""
