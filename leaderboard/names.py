"""Whether one method's name can be taken for another's."""

from __future__ import annotations

import re

from dgbench.averaging import AVERAGINGS

# Names are ASCII (`fields.Name`), so alphabets cannot be mixed; these are what still looks alike in it.
_ALIKE = str.maketrans("0158i", "olsbl")
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))
HEADINGS = ("Rank", "Method", "Average", "Worst domain", "File", "Baseline", "Trial", "Mean")


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


def stem(name: str) -> str:
    """A name without an average of weights that stands behind it as if the table had added it.

    >>> stem("erm+SWAD"), stem("coral+ema:0.9"), stem("coral+mixup"), stem("ERM++")
    ('erm', 'coral', 'coral+mixup', 'ERM++')
    """
    head, _, tail = name.rpartition("+")
    averages = {skeleton(average) for average in AVERAGINGS}
    return head if head and skeleton(re.split("[^A-Za-z0-9]", tail)[0]) in averages else name


def is_heading(name: str) -> bool:
    """Whether a name can be taken for the heading of a column or row that every table has.

    >>> is_heading("average"), is_heading("averaged")
    (True, False)
    """
    return skeleton(name) in map(skeleton, HEADINGS)
