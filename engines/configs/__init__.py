"""Model configurations shipped with the pack: what a checkpoint file does not say about itself."""
