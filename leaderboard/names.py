"""Whether one method's name can be taken for another's."""

from __future__ import annotations

import re

# Names are ASCII (`fields.Name`), so alphabets cannot be mixed; these are what still looks alike in it.
_ALIKE = str.maketrans("0158i", "olsbl")
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))


def skeleton(name: str) -> str:
    """What is left of a name when case, separators and the differences between similar letters are ignored.

    Two names with one skeleton are confusable. `+` stays: ERM++ is another method than ERM.

    >>> skeleton("ERM") == skeleton("E-R-M") == skeleton("e rm"), skeleton("ERM") == skeleton("ERM++")
    (True, False)
    >>> skeleton("M1xup") == skeleton("MlXUP") == skeleton("mixup")
    True
    """
    plain = re.sub(r"[^a-z0-9+]", "", name.lower()).translate(_ALIKE)
    for pair, letter in _PAIRS:
        plain = plain.replace(pair, letter)
    return plain
