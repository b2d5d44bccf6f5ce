"""The video diffusion network of ReconX: U-Net, attention, conditions, sampler, pipeline."""
