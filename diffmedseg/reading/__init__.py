"""Read pictures, masks and volumes. Training, evaluation and prediction all read a file by this package."""
