"""Search: a typed genetic-programming operator, a tuner of constants, and the loopback endpoint that offers both."""
