"""What is done about the samples of a rollout, stage by stage. Each class is one method with its parameters."""
