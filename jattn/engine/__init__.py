"""`attend`: the row program, the plan of blocks, the walk over them, fused kernels, and the choice among them."""
