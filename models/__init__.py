"""The networks in torch: layers on integer grids, training, data. Nothing here is needed to code a picture."""
