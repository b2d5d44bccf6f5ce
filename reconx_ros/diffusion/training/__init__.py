"""Training of the video diffusion model: objective, clips, parts that learn, loop, validation, the experiment."""
