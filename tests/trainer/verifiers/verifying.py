"""How tests call a verifier."""

from plumbline_trainer.rewards.verifiers import build_verifier


def reward(parameters, completion, answer=None, code=None, prompt="prompt", **columns):
    """What the verifier of `parameters` gives a completion of a row with these columns."""
    row = {"prompt": prompt, "answer": answer, **columns}
    return build_verifier(parameters, code)(prompt, completion, answer, row)
