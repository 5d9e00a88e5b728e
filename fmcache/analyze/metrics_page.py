"""docs/metrics.md, made from the tables in the code."""

from __future__ import annotations

from fmcache.analyze.cases import FLOOR
from fmcache.analyze.disparities import COMPOSITES, DISPARITIES
from fmcache.analyze.groups import AGE_LIMITS, MISSING_WORDS, UNKNOWN
from fmcache.analyze.intervals import MOST_UNDEFINED
from fmcache.analyze.metrics import METRICS
from fmcache.analyze.permutation import PERMUTATIONS
from fmcache.analyze.thresholds import POLICIES

PAGE = """# Metrics and disparities

The same name means different numbers in this field, so every number in the results names its definition. This page
is the definition `fmcache`. It is made from the tables in the code (`make docs`).

Notation: y is the label (0 or 1), p the score, t the threshold; a sample is called positive if **p >= t**.

## Metrics

| metric | what | formula | better | range | undefined below {floor} | needs |
|---|---|---|---|---|---|---|
{metrics}

Every row of the results also has n, n_pos and n_patients. Scores outside [0, 1] have no brier and no ece.

## Disparities over groups

| disparity | formula | when all groups are equal |
|---|---|---|
{disparities}
| gap_null | mean gap over {permutations} permutations of the groups; interval: the band of those gaps | as the gap |
| gap_p | (1 + permutations with a gap at least as large) / (1 + permutations) | large |

`worst` is not given for prevalence and selection_rate, `es` only where higher is better.

| composite | what | formula |
|---|---|---|
{composites}

A public name is metric_disparity: `auc_gap`, `eqodds_gap`, `ece_worst`.

**Beside every gap stands the gap of chance.** The largest minus the smallest of several noisy numbers is never 0.
`gap_null` deals the groups anew over the patients, within patients with and without a positive, and measures again.
It keeps each group's prevalence; what differs because of prevalence alone (in ppv or selection rate) is therefore
part of the null gap, and prevalence itself has none. A gap cannot be negative, so neither can its bootstrap interval:
that the interval stays above 0 says nothing; read `gap_p`.

## Undefined is NaN with a reason

A group with one class, an empty group, or fewer than {floor} of what a number is a mean over: NaN, never 0 and never
1, and `reason` says why. A disparity leaves undefined groups out and says so; with fewer than two groups it is
undefined itself.

## Intervals

Percentile intervals of a bootstrap over patients, 1,000 replicates by default: all images, labels and groups of a
patient come and go together, and all numbers of a run share the replicates. Replicate b depends on the seed and b
only. A replicate in which a number is undefined is counted; above {most_undefined:.0%} of them there is no interval.
Without patient ids every row is its own patient, and a finding says so. The area under the ROC curve is exact in
every replicate, ties included.

## Thresholds

One threshold for all groups, chosen for each label and seed on validation rows, never on the rows that are measured.

| policy | threshold |
|---|---|
{policies}

`sens@` and `spec@` take any share. Where a policy needs validation rows and there are none, nothing is computed.

## Groups

* Attributes are text columns, or numbers with at most 10 different values. A numeric age is cut at {young} and {old}
  (`age_group`) when the dataset has no groups of its own.
* Missing values are the group `{unknown}`: shown, counted, left out of disparities. Missing is an empty cell or, in
  any case of letters, one of: {missing}. "Other" is a group.
* An intersection is written `sex*age_group`; its groups are `female*60+`. A row that lacks one part is `{unknown}`.
"""


def metrics_page() -> str:
    """The Markdown of docs/metrics.md."""
    metrics = "\n".join(
        f"| {name} | {m.title} | {_cell(m.formula)} | {m.better} | {m.low:g} to {m.high:g} | {m.over} | "
        f"{' and '.join(['threshold'] * m.threshold + ['probability'] * m.probability) or '–'} |"
        for name, m in METRICS.items()
    )
    return PAGE.format(
        metrics=metrics,
        disparities="\n".join(f"| {name} | {d.formula} | {d.equal} |" for name, d in DISPARITIES.items()),
        composites="\n".join(
            f"| {name}_gap | {title} | {formula} |" for name, (title, formula, _) in COMPOSITES.items()
        ),
        policies="\n".join(f"| {name} | {text} |" for name, text in POLICIES.items()),
        missing=", ".join(f"`{word}`" for word in sorted(MISSING_WORDS) if word),
        floor=FLOOR,
        permutations=PERMUTATIONS,
        most_undefined=MOST_UNDEFINED,
        young=AGE_LIMITS[0],
        old=AGE_LIMITS[1],
        unknown=UNKNOWN,
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
