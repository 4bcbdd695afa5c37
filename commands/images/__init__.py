"""Look at the images that snapshots of a project share, and at those that are hidden."""
