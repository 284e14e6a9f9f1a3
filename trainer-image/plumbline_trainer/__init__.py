"""The trainer: post-trains a language model from preferences or from verifiable rewards, alone or as a pod."""
