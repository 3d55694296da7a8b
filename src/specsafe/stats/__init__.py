"""Pure functions of counts and arrays; every result carries k, n, method and interval."""

from specsafe.stats.clusters import DesignEffect, design_effect
from specsafe.stats.paired import (
    PairedDifference,
    TostTr144,
    exact_unconditional,
    mcnemar_exact,
    mde_tr144,
    paired_difference,
    paired_mde,
    sample_size,
    score_statistic,
    tost_tr144,
)
from specsafe.stats.proportions import Proportion, cohen_h, holm, proportion
from specsafe.stats.ratios import Ratio, SpeedUp, paired_rate_ratio, ratio_of_sums

__all__ = [
    "DesignEffect",
    "PairedDifference",
    "Proportion",
    "Ratio",
    "SpeedUp",
    "TostTr144",
    "cohen_h",
    "design_effect",
    "exact_unconditional",
    "holm",
    "mcnemar_exact",
    "mde_tr144",
    "paired_difference",
    "paired_mde",
    "paired_rate_ratio",
    "proportion",
    "ratio_of_sums",
    "sample_size",
    "score_statistic",
    "tost_tr144",
]
