"""What runs by itself: retention, and looks for what is left behind."""
