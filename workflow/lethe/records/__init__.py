"""What made each file: fingerprints, digests of code, records, what they tell."""
