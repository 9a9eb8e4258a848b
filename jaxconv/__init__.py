"""ConvNets as functions of arrays."""
