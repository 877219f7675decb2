"""Stories of a cluster, told on a fake clock."""
