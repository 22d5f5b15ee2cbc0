"""Other libraries' interfaces to the environments; each needs its extra."""
