"""Pure functions of counts and arrays; every result carries k, n, method and interval."""

from specsafe.stats.agreement import Kappa, cohen_kappa, kappa_tr144
from specsafe.stats.bootstrap import Bootstrap, cluster_bootstrap
from specsafe.stats.clusters import DesignEffect, design_effect
from specsafe.stats.groups import Anova, PointBiserial, WelchT, one_way_anova, point_biserial, welch_t
from specsafe.stats.independent import IndependentDifference, difference_of, independent_difference
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
from specsafe.stats.published import (
    best_case_tr144,
    bootstrap_tost_tr144,
    slope_tr144,
    tost_scores_tr144,
)
from specsafe.stats.ratios import Ratio, SpeedUp, paired_rate_ratio, ratio_of_sums
from specsafe.stats.strata import (
    Heterogeneity,
    OddsRatio,
    heterogeneity,
    mantel_haenszel_matched,
    mantel_haenszel_tr144,
    paired_variance,
)
from specsafe.stats.trend import (
    CochranQ,
    Slope,
    Trend,
    cochran_armitage,
    cochran_q,
    linear_slope,
    logistic_slope,
)

__all__ = [
    "Anova",
    "Bootstrap",
    "CochranQ",
    "DesignEffect",
    "Heterogeneity",
    "IndependentDifference",
    "Kappa",
    "OddsRatio",
    "PairedDifference",
    "PointBiserial",
    "Proportion",
    "Ratio",
    "Slope",
    "SpeedUp",
    "TostTr144",
    "Trend",
    "WelchT",
    "best_case_tr144",
    "bootstrap_tost_tr144",
    "cluster_bootstrap",
    "cochran_armitage",
    "cochran_q",
    "cohen_h",
    "cohen_kappa",
    "design_effect",
    "difference_of",
    "exact_unconditional",
    "heterogeneity",
    "holm",
    "independent_difference",
    "kappa_tr144",
    "linear_slope",
    "logistic_slope",
    "mantel_haenszel_matched",
    "mantel_haenszel_tr144",
    "mcnemar_exact",
    "mde_tr144",
    "one_way_anova",
    "paired_difference",
    "paired_mde",
    "paired_rate_ratio",
    "paired_variance",
    "point_biserial",
    "proportion",
    "ratio_of_sums",
    "sample_size",
    "score_statistic",
    "slope_tr144",
    "tost_scores_tr144",
    "tost_tr144",
    "welch_t",
]
