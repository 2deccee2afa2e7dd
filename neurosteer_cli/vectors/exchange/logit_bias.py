"""What a vector adds to logits, as the `logit_bias` of a request to a server.

Knows what servers take; knows nothing of models or requests.
"""

import json
from pathlib import Path

from ...errors import IncompatibleVectorError, InputError
from ...files import replace_file
from ..kinds import TokenBias
from ..vector import SteeringVector, check_alpha

MOST_TOKENS = 300  # that OpenAI's API takes; vLLM's and our own take 1024, llama.cpp's as many as there are
LARGEST = 100.0  # number that OpenAI's and vLLM's take, of either sign


def logit_bias(
    vector: SteeringVector, alpha: float, n_tokens: int = MOST_TOKENS, *, name: str = "the vector"
) -> tuple[TokenBias, float]:
    """The strongest biases of a vector at an alpha, strongest first, and the share of all that they are.

    `name` is what errors call the vector.

    Raises:
        IncompatibleVectorError: it adds nothing to logits.
        InputError: the alpha is 0, or not finite, or too large for servers.
    """
    check_alpha(alpha)
    if vector.bias is None:
        raise IncompatibleVectorError(
            f"{name} is of the kind {vector.metadata.kind} and adds nothing to logits: "
            "`fit --method logodds` and --logits-share make vectors that do"
        )
    at_alpha = vector.bias * alpha
    order = at_alpha.bias.abs().argsort(descending=True, stable=True)[:n_tokens]
    kept = TokenBias(at_alpha.ids[order], at_alpha.bias[order])
    if not float(kept.bias[0].abs()) <= LARGEST:
        raise InputError(
            f"alpha {alpha:g} is too large: it adds {kept.bias[0]:+.4g} to a logit, and servers take no more "
            f"than {LARGEST:g}"
        )
    return kept, float(kept.bias.abs().sum() / at_alpha.bias.abs().sum())


def write_logit_bias(bias: TokenBias, path: Path) -> None:
    """Write a JSON object of token ids and what is added to their logits, in nats."""
    numbers = {
        str(token): float(f"{nats:.6g}")
        for token, nats in zip(bias.ids.tolist(), bias.bias.tolist(), strict=True)
    }
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(numbers) + "\n")
