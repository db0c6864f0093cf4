"""`AttentionFilter`: the row program stopped at the weights, and everything that can be asked of it."""
