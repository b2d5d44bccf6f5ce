"""The parts of training that need accelerate, diffusers or transformers."""
