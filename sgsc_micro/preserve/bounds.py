"""What may be said of unseen data: bounds on the rate of negative flips, from cases that nothing was selected on."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import beta, binom

from sgsc_micro.errors import SgscError

CONFIDENCE = 0.95


def upper_bound(flips: int, n: int, confidence: float = CONFIDENCE) -> float:
    """One-sided Clopper-Pearson bound on the flip rate, for ``flips`` seen in ``n`` i.i.d. cases of a frozen model.

    >>> round(upper_bound(0, 400), 5)  # 1 - 0.05 ** (1 / 400)
    0.00746
    """
    if not 0 <= flips <= n or n == 0 or not 0 < confidence < 1:
        raise SgscError(
            f"bound: {flips} flips in {n} cases at confidence {confidence}",
            hint="it needs 0 <= flips <= n, n > 0 and a confidence between 0 and 1",
        )
    return 1.0 if flips == n else float(beta.ppf(confidence, flips + 1, n - flips))


def safe_prefix(flips: Sequence[int], n: int, rate: float, confidence: float = CONFIDENCE) -> int:
    """How many models of a path, from its start on, have a flip rate of at most ``rate``, all at once with
    ``confidence``.

    Learn then Test (2110.01052) with fixed-sequence testing: the models are tested in an order that was fixed without a
    look at the ``n`` cases, here from the first accepted step on; "its rate is above ``rate``" is rejected where so few
    flips would be seen with probability 1 - confidence at most, and the first that cannot be rejected ends it. Then the
    probability that any of the prefix is worse than ``rate`` is at most 1 - confidence, however long the path is, so
    the last of the prefix may be chosen by these very cases.

    >>> safe_prefix([0, 1, 2, 9, 0], 400, 0.02)
    3
    """
    if not 0 < rate < 1:
        raise SgscError(f"bound: a flip rate of {rate} is no rate", hint="give one between 0 and 1, 0.01 say")
    for number, seen in enumerate(flips):
        if binom.cdf(seen, n, rate) > 1 - confidence:
            return number
    return len(flips)
