"""The training methods: one family a module, one class a method.

To add a method, add one class to its family's module (see `plumbline_api.base.Family`) and the function that
implements it to the trainer; the CRDs, the API reference and the trainer's registry follow from the class.
"""
