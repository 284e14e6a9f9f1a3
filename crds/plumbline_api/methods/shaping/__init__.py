"""Steps that change the rewards of a rollout before advantages are taken, by subject."""
