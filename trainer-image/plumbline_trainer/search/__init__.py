"""Search over steps that a policy proposes and a checker accepts or refuses."""
