"""Stage 1: posed frames to depth, confidence and cameras in one world."""
