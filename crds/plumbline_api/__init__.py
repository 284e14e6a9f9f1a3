"""The API of Plumbline, group `plumbline.dev`, version `v1alpha1`, and the contract between operator and trainer."""

GROUP = "plumbline.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
