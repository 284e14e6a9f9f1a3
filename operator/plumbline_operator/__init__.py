"""The operator: turns PreferenceJob and RLVRJob into pods and keeps the run alive and explained."""
