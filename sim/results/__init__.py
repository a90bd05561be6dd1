"""The results: every number and figure that is published, computed again from traces, policies and run logs."""
