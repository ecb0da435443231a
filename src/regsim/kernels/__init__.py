"""The few hot loops, behind one call each; they know tensors and no metric."""
