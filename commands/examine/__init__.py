"""What `doctor` looks at, one file for each thing that a deletion needs."""
