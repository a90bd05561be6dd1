"""The learnable ceiling: how much of the gap a predictor trained offline closes that no engine could run."""
