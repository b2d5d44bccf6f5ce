"""The compiled kernels: C sources, their build and their loader. Nothing here imports torch until it is used."""
