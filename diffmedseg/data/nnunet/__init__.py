"""Raw data sets of nnU-Net v2, read and written."""
