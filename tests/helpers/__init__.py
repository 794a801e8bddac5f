"""What tests of several files share: writers of data sets in the official layouts, small models, tiny runs."""
