"""How arrays look: heat maps, ink, bins, labels, files. Knows no JAX and no model."""
