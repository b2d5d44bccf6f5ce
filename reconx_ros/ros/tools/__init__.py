"""Programs around the nodes: sessions of processes, recorder, bag player, simulated robot, load, benches."""
