"""The ReconX video model: diffusers classes around the network, and the converter of public weights."""
