"""Whether top-k can leave as few weights on as it is told, where some weights may not be masked.

A density counts all weights of a tensor. Those that may not be masked are always on, so they set a floor.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from selfmask.errors import SettingsError
from selfmask.masking.rules import Progressive, Rule, TopK
from selfmask.masking.selection import LargestShare, RandomShare


def check_densities(
    rule: Rule, chosen: Mapping[str, Tensor], weights: RandomShare | LargestShare | None
) -> None:
    """Check `rule` against the parameters chosen, by name, before anything is made of them; no value is read.

    Raises `SettingsError`: a top-k rule has no density for a tensor, or one below what is always on there, or
    leaves nothing to choose. Of a `Progressive` schedule the end counts, since densities fall.
    """
    if not isinstance(rule, TopK):
        return
    least = {name: rule.least_density(name) for name in chosen}
    if weights is None:
        return
    kind = "largest" if isinstance(weights, LargestShare) else "random"
    share = weights.share
    why = (
        f"only the {kind} {100 * share:g} % of each tensor's weights may be masked; the others are always on "
        "and count"
    )
    mend = "give a higher density or a larger share of weights"
    asked = rule.density.end if isinstance(rule.density, Progressive) else rule.density
    if not isinstance(asked, Mapping):
        # Compared as shares, not as counts, so that what is allowed does not hang on how sizes are rounded.
        if asked <= 1 - share + 1e-9:
            raise SettingsError(
                f"TopK: a density of {asked:g} is not possible: {why}, so that the density must be above "
                f"{1 - share:g}, where none of those that may be masked would be on; {mend}"
            )
        return
    free = False
    for name, parameter in chosen.items():
        total = parameter.numel()
        pinned, count = total - weights.count(total), rule.least_count(name, total)
        if count < pinned:
            raise SettingsError(
                f"TopK: a density of {least[name]:g} is not possible for {name!r}: {why} ({pinned} of {total}, "
                f"a share of {share:g} being maskable), so that the least density is {pinned / total!r}; {mend}"
            )
        free = free or count > pinned
    if not free:
        raise SettingsError(
            f"TopK: the densities leave nothing to choose: {why}, and in every tensor they alone are as many as "
            f"the density asks for (about {1 - share:g}); {mend}"
        )
