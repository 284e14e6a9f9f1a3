"""A real Kubernetes on this machine, for the demo, the end-to-end and the operator tests.

Nothing here is part of the product: the operator only ever sees a kubeconfig.
Only the standard library is used, because this package runs before any virtual
environment exists.
"""
