"""Curricula of RLVRJob: which prompts a rollout takes. Each class is one method with its parameters."""
