"""docs/metrics.md, made from the tables in the code."""

from __future__ import annotations

from collections.abc import Mapping

from fmcache.analyze.cases import FLOOR
from fmcache.analyze.definitions import DEFINITIONS
from fmcache.analyze.disparities import COMPOSITES, DISPARITIES
from fmcache.analyze.intervals import MOST_UNDEFINED
from fmcache.analyze.metrics import METRICS, Metric
from fmcache.analyze.multiclass import MULTICLASS
from fmcache.analyze.permutation import COUNTED, PERMUTATIONS, SMALLEST_P
from fmcache.analyze.thresholds import POLICIES
from fmcache.analyze.values import VALUES
from fmcache.store.groups import AGE_LIMITS, MISSING_WORDS, UNKNOWN

PAGE = """# Metrics and disparities

The same name means different numbers in this field, so every number in the results names its definition. What follows
is the definition `fmcache`, the default; those of others are at the end. This page is made from the tables in the
code (`make docs`). How the numbers are computed, and how much to believe them: [statistics.md](statistics.md).

Notation: y is the label (0 or 1), p the score, t the threshold; a sample is called positive if **p >= t**.

## Metrics

| metric | what | formula | better | range | undefined below {floor} | needs |
|---|---|---|---|---|---|---|
{metrics}

Every row of the results also has n, n_pos and n_patients. Scores outside [0, 1] have none of the metrics that need a
probability. A binned calibration error is biased upward in small groups: read `gap_null` beside its gap, and the
slope and intercept, which have no bins. Logits are taken of scores held to [1e-6, 1 − 1e-6].

### Several classes

One label with class names and one score a class: every class is measured one against the rest (label `dx=nv`), and
the label itself has

| metric | what | formula | better | range |
|---|---|---|---|---|
{multiclass}

### Segmentation and other numbers a sample

Means over samples, groups and patients of columns that are there already (`fmcache audit dice.csv --value dsc,hd95`).
A column is recognised by its name; one that is not has no better direction. NaN and infinite values are left out and
said.

| metric | what | formula | better | range |
|---|---|---|---|---|
{values}

## Disparities over groups

| disparity | formula | when all groups are equal |
|---|---|---|
{disparities}
| gap_null | mean gap over {permutations} permutations of the groups; interval: the band of those gaps | as the gap |
| gap_p | chance of a gap at least as large, if groups made no difference | large |
| gap_equivalence | with `--tolerance`: p of all pairs being within it; the verdict is in `reason` | |

`gap_p` is the share of permutations, (1 + count)/(1 + {permutations}), if at least {counted} of them reach the gap
or their gaps take fewer than {counted} values (rates of few patients);
otherwise the tail of the gamma distribution with the mean and variance of the null gaps, never below {smallest_p:g}.

`worst` is not given for metrics without a better direction, `es` and `skew` only where higher is better, `ratio` not
for metrics that can be negative.

| beside a group | what |
|---|---|
| difference | value − value of the reference group, with the paired interval; `reference` names it |
| difference_p | two-sided p of difference / standard error (clustered DeLong for auc, else of the replicates) |
| difference_p_holm, difference_p_bh | corrected over the declared family (`--family auc`), which a finding prints |
| difference_band | interval that covers all differences of the family together |
| difference_equivalence | with `--tolerance`: p of two one-sided tests; the verdict is in `reason` |
| delong | the auc again, with the interval of its clustered DeLong variance on the logit scale |
| design_effect | standard error with patients as the unit / with independent images |
| null | of a calibration error: its mean over labels drawn from the scores {permutations} times; interval: their band |
| null_p | chance of an error at least as large in a calibrated model, computed as `gap_p` |

The reference is the largest group unless `--reference sex=male` names one. Rows with metric `finding` come first; they
have no value, and `reason` holds the sentence.

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
every replicate, ties included. Shares of independent images (one a patient) have Wilson's interval; so have shares
that no replicate changes. An auc of 1 or 0 has the exact interval of as many disjoint pairs as there are patients.

## Thresholds

One threshold for all groups, chosen for each label and seed on validation rows; on the rows that are measured only if
the policy begins with `test-`, which the results and a finding name. `--threshold-per-group` chooses one in every
group, which is a mitigation; the policy is then recorded as `youden per group`.

| policy | threshold |
|---|---|
{policies}

`sens@` and `spec@` take any share. Where a policy needs validation rows and there are none, nothing is computed.

## Groups

* Attributes are text columns, or numbers with at most 10 different values. A numeric age is cut at {young} and {old}
  (`age_group`) when the dataset has no groups of its own, a numeric `bmi` at 18.5, 25 and 30 (WHO).
* Missing values are the group `{unknown}`: shown, counted, left out of disparities. Missing is an empty cell or, in
  any case of letters, one of: {missing}. "Other" is a group.
* `--bins age=40:60` or `--bins age=young:40:middle:60:old` cuts a number; a value on a limit is in the upper group.
* An intersection is written `sex*age_group`; its groups are `female*60+`. A row that lacks one part is `{unknown}`.
* `fmcache metrics --where "view = 'PA'"` measures a part: the test samples that fulfil a condition in SQL on the
  columns of the table `samples` (docs/sql.md). Thresholds stay those of the whole run, as they are for a group. Its
  results are printed, not stored.

## Definitions of others

`--definition fmcache,paper,fairmedfm,medfair,harvard`; the column `definition` says whose number a row is. `parity` is
1 − gap, what tables print as "EqOdds ↑". Undefined stays NaN, also where the code says 0 or 1; the floor of {floor}
does not apply. Intervals come from the same resamples, with thresholds and bin edges as found on all measured rows.

| definition | whose |
|---|---|
{definitions}

* **paper** ece: mean of |p − y|; skew: max(1 − m)/min(1 − m); es: overall/(1 + std, ddof 0); eqodds: ½(TPR gap + FPR
  gap) at the threshold of `--threshold`, which the paper does not name, with `parity` beside it; dp: selection-rate
  gap. Race is white and non-white, language English and other, `age_group` below and from 60 (for COVID-CT-MD, ADNI
  and CANDI type `--bins age=young:50:old`, 75, 10). BMI has the four classes that a numeric `bmi` is cut into anyway;
  marital status is that of the data (five classes in the paper's), which the paper does not merge.
* **fairmedfm** threshold: the lowest of the test precision-recall curve with the largest 2pr/(p + r + 1e-8), applied
  as p > t; a second report at 0.5. ece: 10 bins over [min p, max p] of that very group, closed on the right. eqodds
  parity: 1 − ½(TPR gap + TNR gap). log_loss is its BCE.
* **medfair** eqodds parity at that threshold, at 0.5, and at a specificity and a sensitivity of 0.80 on the test rows;
  dp parity at the first. ece as fairmedfm.
* **harvard** es: overall/(1 + Σ|group − overall|); eqodds: the larger of the TPR and FPR gaps; dp; both at p >= 0.5.
  For segmentation es = mean/(1 + std, ddof 1).
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
        multiclass=_rows(MULTICLASS),
        values=_rows(VALUES),
        definitions="\n".join(f"| {name} | {text} |" for name, text in DEFINITIONS.items()),
        counted=COUNTED,
        smallest_p=SMALLEST_P,
        floor=FLOOR,
        permutations=PERMUTATIONS,
        most_undefined=MOST_UNDEFINED,
        young=AGE_LIMITS[0],
        old=AGE_LIMITS[1],
        unknown=UNKNOWN,
    )


def _rows(metrics: Mapping[str, Metric]) -> str:
    return "\n".join(
        f"| {name} | {m.title} | {_cell(m.formula)} | {m.better} | {m.low:g} to {m.high:g} |"
        for name, m in metrics.items()
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
