"""Policy-gradient objectives of RLVRJob. Each class is one method: its parameters, bounds and the paper it comes from."""
