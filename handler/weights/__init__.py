"""The weight files that models.txt lists: what they are, where they are, how to download them."""
