"""What layers compute from their parameters: pure functions that the linen and the NNX shell share."""
