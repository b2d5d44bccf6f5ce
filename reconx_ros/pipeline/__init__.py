"""The stages joined: configuration, keyframes, coverage, reconstruction, result folder."""
