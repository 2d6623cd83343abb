"""The stages of a network that was trained elsewhere: what takes the place of recordings, features and training."""
