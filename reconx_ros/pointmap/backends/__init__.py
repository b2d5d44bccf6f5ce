"""Ways to get stage 1 done; each module is imported only when used."""
