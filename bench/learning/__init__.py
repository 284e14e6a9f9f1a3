"""What RLVR jobs learn: held-out pass rates before and after, and what the methods' papers claim, on small tasks."""
