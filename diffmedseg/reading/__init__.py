"""The one reader of pictures, masks and volumes: training, evaluation and prediction read a file alike."""
