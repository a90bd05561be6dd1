"""Ablation: ways to search compared over seeds, at equal evaluations and at equal cost. Never reads the test split."""
