-- fmcache's tables and aggregates for the plain duckdb client:  cd <cache> && duckdb -init catalog.sql
-- Made by fmcache; it may be replaced by a later version. The client does not verify what it reads: fmcache sql does.

SET VARIABLE run_files = (SELECT list(file ORDER BY file) FROM glob('runs/*/run.json'));
SET VARIABLE prediction_files = (SELECT list(file ORDER BY file) FROM glob('runs/*/predictions.parquet'));
SET VARIABLE result_files = (SELECT list(file ORDER BY file) FROM glob('results/*.parquet'));
SET VARIABLE sample_files = (SELECT list(file ORDER BY file) FROM (SELECT max(file) AS file FROM glob('datasets/*/*/samples.parquet') GROUP BY parse_path(file)[-3]));
SET VARIABLE card_files = (SELECT list(file ORDER BY file) FROM (SELECT max(file) AS file FROM glob('datasets/*/*/card.json') GROUP BY parse_path(file)[-3]));
SET VARIABLE manifest_files = (SELECT list(file ORDER BY file) FROM glob('entries/*/*/*/segments/*/manifest.json'));
SET VARIABLE mask_row_files = (SELECT list(file ORDER BY file) FROM glob('entries/*/*/mask-*/segments/*/rows.parquet'));
SET VARIABLE mask_files = (SELECT list(file ORDER BY file) FROM glob('entries/*/*/mask-*/segments/*/masks/*.parquet'));
SET VARIABLE prompt_files = (SELECT list(file ORDER BY file) FROM glob('entries/*/*/mask-*/segments/*/prompts/*.parquet'));

-- The views: samples, entries, masks, runs, predictions, results (and metrics, the same). Each reads a list of files
-- from a variable, which is NULL where there are none yet: then the view is empty, with the columns that are always there.
-- A name that is taken gets _1: an attribute sex and a raw column sex are sex and sex_1.

CREATE OR REPLACE VIEW runs AS
SELECT
    document ->> 'run_id' AS run_id,
    document ->> '$.info.model' AS model,
    document ->> '$.info.dataset' AS dataset,
    document ->> '$.info.usage' AS usage,
    document ->> '$.info.method' AS method,
    document ->> '$.info.key' AS key,
    document ->> '$.info.dataset_digest' AS dataset_digest,
    document ->> '$.info.created' AS created,
    document -> 'info' AS info
FROM query(CASE WHEN getvariable('run_files') IS NULL THEN $$ SELECT NULL::JSON AS document WHERE false $$
    ELSE $$ SELECT content::JSON AS document FROM read_text(getvariable('run_files')) $$ END);

CREATE OR REPLACE VIEW predictions AS
SELECT runs.run_id, runs.model, runs.dataset, runs.usage, runs.method, p.* EXCLUDE (file)
FROM (
    SELECT COLUMNS('^(?:attribute[.])?(.*)$') AS '\1'
    FROM query(CASE WHEN getvariable('prediction_files') IS NULL
        THEN $$ SELECT NULL::VARCHAR AS "sample_id", NULL::VARCHAR AS "patient_id", NULL::VARCHAR AS "split", NULL::VARCHAR AS "label", NULL::INTEGER AS "seed", NULL::FLOAT AS "y", NULL::DOUBLE AS "score", NULL::DOUBLE AS "logit", NULL::VARCHAR AS file WHERE false $$
        ELSE $$ FROM read_parquet(getvariable('prediction_files'), union_by_name = true, filename = 'file') $$ END)
) AS p
JOIN runs ON runs.run_id = parse_path(p.file)[-2];

CREATE OR REPLACE VIEW results AS
FROM query(CASE WHEN getvariable('result_files') IS NULL
    THEN $$ SELECT NULL::VARCHAR AS "run_id", NULL::VARCHAR AS "model", NULL::VARCHAR AS "dataset", NULL::VARCHAR AS "usage", NULL::VARCHAR AS "method", NULL::INTEGER AS "seed", NULL::VARCHAR AS "split", NULL::VARCHAR AS "label", NULL::VARCHAR AS "attribute", NULL::VARCHAR AS "group", NULL::VARCHAR AS "reference", NULL::VARCHAR AS "metric", NULL::VARCHAR AS "disparity", NULL::VARCHAR AS "definition", NULL::DOUBLE AS "value", NULL::DOUBLE AS "ci_low", NULL::DOUBLE AS "ci_high", NULL::DOUBLE AS "ci_level", NULL::BIGINT AS "n", NULL::BIGINT AS "n_pos", NULL::BIGINT AS "n_patients", NULL::DOUBLE AS "threshold", NULL::VARCHAR AS "threshold_policy", NULL::VARCHAR AS "reason" WHERE false $$
    ELSE $$ FROM read_parquet(getvariable('result_files'), union_by_name = true) $$ END);

CREATE OR REPLACE VIEW metrics AS FROM results;

CREATE OR REPLACE VIEW samples AS
SELECT cards.name AS dataset, s.* EXCLUDE (file)
FROM (
    SELECT COLUMNS('^(?:attribute[.]|label[.])?(.*)$') AS '\1'
    FROM query(CASE WHEN getvariable('sample_files') IS NULL
        THEN $$ SELECT NULL::VARCHAR AS "sample_id", NULL::VARCHAR AS "patient_id", NULL::VARCHAR AS "path", NULL::VARCHAR AS "split", NULL::INTEGER AS "slices", NULL::VARCHAR AS "input_digest", NULL::VARCHAR AS "input_error", NULL::VARCHAR AS file WHERE false $$
        ELSE $$ FROM read_parquet(getvariable('sample_files'), union_by_name = true, filename = 'file') $$ END)
) AS s
JOIN query(CASE WHEN getvariable('card_files') IS NULL
    THEN $$ SELECT NULL::VARCHAR AS name, NULL::VARCHAR AS file WHERE false $$
    ELSE $$ SELECT content::JSON ->> 'name' AS name, filename AS file FROM read_text(getvariable('card_files')) $$ END)
AS cards
ON parse_path(cards.file)[-3:-2] = parse_path(s.file)[-3:-2];

CREATE OR REPLACE VIEW segments AS
SELECT
    m ->> 'model' AS model,
    m ->> 'dataset' AS dataset,
    m ->> 'kind' AS kind,
    m ->> 'key' AS key,
    parse_path(file)[-2]::INTEGER AS segment,
    (m ->> 'n')::BIGINT AS n,
    (m -> 'shape')::BIGINT[] AS shape,
    m ->> 'dtype' AS dtype,
    (m ->> 'rows')::BIGINT AS rows,
    (m ->> 'quarantined')::BIGINT AS quarantined,
    list_sum((m -> '$.files.*.bytes')::BIGINT[])::BIGINT AS bytes,
    (m ->> 'max_relative_error')::DOUBLE AS max_relative_error,
    m ->> 'created' AS created,
    m -> 'provenance' AS provenance,
    parse_path(file)[-5:-2] AS place
FROM query(CASE WHEN getvariable('manifest_files') IS NULL
    THEN $$ SELECT NULL::JSON AS m, NULL::VARCHAR AS file WHERE false $$
    ELSE $$ SELECT content::JSON AS m, filename AS file FROM read_text(getvariable('manifest_files')) $$ END);

CREATE OR REPLACE VIEW entries AS
SELECT
    model, dataset, kind, key, sum(n)::BIGINT AS n, any_value(shape[2:]) AS shape, any_value(dtype) AS dtype,
    count(*) AS segments, sum(quarantined)::BIGINT AS quarantined, sum(bytes)::BIGINT AS bytes, max(created) AS created
FROM segments
GROUP BY model, dataset, kind, key;

-- One row a picture (or slice), class and prompt of a mask entry: what was asked, the IoU that the model predicted, the
-- pixels of the ground truth, where the logits are, and everything that is known of the sample. A mask entry has units of
-- its own (a picture and its mask together); `image_digest` leads back to the sample.
CREATE OR REPLACE VIEW masks AS
SELECT
    s.model, s.dataset, s.key, p.class, p.prompt, p.coordinates, p.chosen, p.iou_1, p.iou_2, p.iou_3, t.pixels,
    t.shape AS mask_shape, coalesce(r.segment, s.segment) AS segment, r.row, r.slice, samples.* EXCLUDE (dataset)
FROM (SELECT * EXCLUDE (file), parse_path(file)[-5:-4] AS entry, parse_path(file)[-5:-2] AS place
    FROM query(CASE WHEN getvariable('mask_row_files') IS NULL
        THEN $$ SELECT NULL::VARCHAR AS "sample_id", NULL::INTEGER AS "slice", NULL::VARCHAR AS "input_digest", NULL::INTEGER AS "segment", NULL::BIGINT AS "row", NULL::VARCHAR AS file WHERE false $$
        ELSE $$ FROM read_parquet(getvariable('mask_row_files'), union_by_name = true, filename = 'file') $$ END)) AS r
JOIN segments AS s ON s.place = r.place
JOIN (SELECT * EXCLUDE (file), parse_path(file)[-6:-5] AS entry
    FROM query(CASE WHEN getvariable('mask_files') IS NULL
        THEN $$ SELECT NULL::VARCHAR AS "input_digest", NULL::INTEGER AS "slice", NULL::VARCHAR AS "image_digest", NULL::VARCHAR AS "class", NULL::VARCHAR AS "shape", NULL::BIGINT AS "pixels", NULL::VARCHAR AS "bits", NULL::VARCHAR AS file WHERE false $$
        ELSE $$ SELECT * EXCLUDE (bits)
                FROM read_parquet(getvariable('mask_files'), union_by_name = true, filename = 'file') $$ END)) AS t
ON t.entry = r.entry AND t.input_digest = r.input_digest AND t.slice = r.slice
JOIN (SELECT * EXCLUDE (file), parse_path(file)[-6:-5] AS entry, parse_path(file)[-3] AS made
    FROM query(CASE WHEN getvariable('prompt_files') IS NULL
        THEN $$ SELECT NULL::VARCHAR AS "input_digest", NULL::INTEGER AS "slice", NULL::VARCHAR AS "class", NULL::VARCHAR AS "prompt", NULL::VARCHAR AS "coordinates", NULL::INTEGER AS "chosen", NULL::FLOAT AS "iou_1", NULL::FLOAT AS "iou_2", NULL::FLOAT AS "iou_3", NULL::VARCHAR AS file WHERE false $$
        ELSE $$ FROM read_parquet(getvariable('prompt_files'), union_by_name = true, filename = 'file') $$ END)) AS p
ON p.entry = r.entry AND p.input_digest = r.input_digest AND p.slice = r.slice AND p.class = t.class
JOIN samples ON samples.dataset = s.dataset AND samples.sample_id = r.sample_id AND samples.input_digest = t.image_digest
QUALIFY row_number() OVER (
    PARTITION BY s.model, s.dataset, s.key, r.sample_id, r.slice, p.class, p.prompt ORDER BY p.made DESC) = 1;

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
