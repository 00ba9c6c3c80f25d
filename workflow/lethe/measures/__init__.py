"""One module per measure: something computed once for each image of a shard."""
