-- The aggregates, for any GROUP BY, CUBE or ROLLUP. y is the truth (0 or 1, or boolean); a row counts if y is 0 or 1 and
-- the score is a number. NULL where the quantity is undefined (a class is absent, no row is left).

CREATE OR REPLACE MACRO _usable(y, score) AS
    coalesce(y::DOUBLE IN (0, 1) AND NOT isnan(score::DOUBLE), false);
CREATE OR REPLACE MACRO _cases(y, score, truth) AS
    count(*) FILTER (_usable(y, score) AND y::DOUBLE = truth);
CREATE OR REPLACE MACRO _decided(y, score, threshold, truth) AS
    count(*) FILTER (_usable(y, score) AND y::DOUBLE = truth AND score::DOUBLE >= threshold);

-- Area under the ROC curve, ties counting half, exact. In ascending order of (score, y) the ranks of the positives sum to
-- P(P + 1)/2 + wins + ties; in the order of (score, -y) to P(P + 1)/2 + wins. The mean of both, less P(P + 1)/2, is the
-- Mann-Whitney U.
CREATE OR REPLACE MACRO auc(y, score) AS
    (
        list_sum(list_transform(
            list_sort(list({s: score::DOUBLE, y: y::DOUBLE}) FILTER (_usable(y, score))),
            lambda x, i: if(x.y = 1, i, 0)))
        + list_sum(list_transform(
            list_sort(list({s: score::DOUBLE, y: -(y::DOUBLE)}) FILTER (_usable(y, score))),
            lambda x, i: if(x.y = -1, i, 0)))
        - _cases(y, score, 1) * (_cases(y, score, 1) + 1.0)
    ) / nullif(2.0 * _cases(y, score, 1) * _cases(y, score, 0), 0);

-- Average precision: over distinct scores from the top, (gain in recall) x precision. A block of tied scores counts once,
-- with the precision after it.
CREATE OR REPLACE MACRO auprc(y, score) AS
    CASE WHEN _cases(y, score, 1) > 0 AND _cases(y, score, 0) > 0 THEN
        list_transform(
            [list_reduce(
                list_reverse_sort(
                    list({s: score::DOUBLE, y: y::DOUBLE, tp: 0.0::DOUBLE, n: 0.0::DOUBLE, tied: 0.0::DOUBLE, ap: 0.0::DOUBLE})
                    FILTER (_usable(y, score))),
                lambda a, b: {
                    s: b.s, y: b.y, tp: a.tp + b.y, n: a.n + 1, tied: if(a.s = b.s, a.tied, 0) + b.y,
                    ap: if(a.s = b.s OR a.n = 0, a.ap, a.ap + a.tied * a.tp / a.n)},
                {s: 0.0::DOUBLE, y: 0.0::DOUBLE, tp: 0.0::DOUBLE, n: 0.0::DOUBLE, tied: 0.0::DOUBLE, ap: 0.0::DOUBLE})],
            lambda r: (r.ap + r.tied * r.tp / r.n) / r.tp)[1]
    END;

-- Share of the positives (tpr) and of the negatives (fpr) with score >= threshold (0.5).
CREATE OR REPLACE MACRO tpr(y, score) AS
    _decided(y, score, 0.5, 1) / nullif(_cases(y, score, 1)::DOUBLE, 0),
    (y, score, threshold) AS
    _decided(y, score, threshold, 1) / nullif(_cases(y, score, 1)::DOUBLE, 0);
CREATE OR REPLACE MACRO fpr(y, score) AS
    _decided(y, score, 0.5, 0) / nullif(_cases(y, score, 0)::DOUBLE, 0),
    (y, score, threshold) AS
    _decided(y, score, threshold, 0) / nullif(_cases(y, score, 0)::DOUBLE, 0);

-- Mean squared difference of probability and truth.
CREATE OR REPLACE MACRO brier(y, score) AS
    avg((score::DOUBLE - y::DOUBLE) ** 2) FILTER (_usable(y, score));

-- Expected calibration error over 10 equal-width bins of [0, 1], closed below: sum over bins of |sum of (p - y)|, over n.
CREATE OR REPLACE MACRO _residual(y, score, bin) AS
    abs(coalesce(sum(score::DOUBLE - y::DOUBLE)
        FILTER (_usable(y, score) AND least(greatest(floor(score::DOUBLE * 10), 0), 9) = bin), 0));
CREATE OR REPLACE MACRO ece(y, score) AS
    (_residual(y, score, 0) + _residual(y, score, 1) + _residual(y, score, 2) + _residual(y, score, 3)
     + _residual(y, score, 4) + _residual(y, score, 5) + _residual(y, score, 6) + _residual(y, score, 7)
     + _residual(y, score, 8) + _residual(y, score, 9)) / nullif((_cases(y, score, 0) + _cases(y, score, 1))::DOUBLE, 0);

-- Dice coefficient of truth and decision (score >= threshold, 0.5) over the rows: 2 TP / (2 TP + FP + FN).
CREATE OR REPLACE MACRO dice(y, score) AS
    2.0 * _decided(y, score, 0.5, 1)
    / nullif(_cases(y, score, 1) + _decided(y, score, 0.5, 1) + _decided(y, score, 0.5, 0), 0),
    (y, score, threshold) AS
    2.0 * _decided(y, score, threshold, 1)
    / nullif(_cases(y, score, 1) + _decided(y, score, threshold, 1) + _decided(y, score, threshold, 0), 0);
