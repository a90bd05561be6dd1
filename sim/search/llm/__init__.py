"""The proxy in front of a language model: accounting with a cap, a record, repair, tuned constants, replay."""
