"""What runs in a process of its own: one training by one trainer, measured."""
