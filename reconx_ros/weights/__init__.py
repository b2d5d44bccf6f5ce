"""Network weights: which there are, where they lie, how they are read, and how loaded networks stay in memory."""
