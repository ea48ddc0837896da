"""Tables in, datasets out: importers, preparation, splits, downloads and the batches that training eats."""
