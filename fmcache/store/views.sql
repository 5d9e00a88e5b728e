-- The views: samples, entries, masks, runs, predictions, results (and metrics, the same), coordinates. Each reads a list of files
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
        THEN $$ SELECT {PREDICTION_COLUMNS}, NULL::VARCHAR AS file WHERE false $$
        ELSE $$ SELECT COLUMNS(lambda name: name <> 'method')  -- probes write it; runs has it for all
                FROM read_parquet(getvariable('prediction_files'), union_by_name = true, filename = 'file') $$ END)
) AS p
JOIN runs ON runs.run_id = parse_path(p.file)[-2];

CREATE OR REPLACE VIEW results AS
FROM query(CASE WHEN getvariable('result_files') IS NULL
    THEN $$ SELECT {RESULT_COLUMNS} WHERE false $$
    ELSE $$ FROM read_parquet(getvariable('result_files'), union_by_name = true) $$ END);

CREATE OR REPLACE VIEW metrics AS FROM results;

CREATE OR REPLACE VIEW coordinates AS
SELECT COLUMNS('^(?:attribute[.])?(.*)$') AS '\1'
FROM query(CASE WHEN getvariable('coordinate_files') IS NULL
    THEN $$ SELECT {COORDINATE_COLUMNS} WHERE false $$
    ELSE $$ FROM read_parquet(getvariable('coordinate_files'), union_by_name = true) $$ END);

CREATE OR REPLACE VIEW samples AS
SELECT cards.name AS dataset, s.* EXCLUDE (file)
FROM (
    SELECT COLUMNS('^(?:attribute[.]|label[.])?(.*)$') AS '\1'
    FROM query(CASE WHEN getvariable('sample_files') IS NULL
        THEN $$ SELECT {SAMPLE_COLUMNS}, NULL::VARCHAR AS file WHERE false $$
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
        THEN $$ SELECT {ROW_COLUMNS}, NULL::VARCHAR AS file WHERE false $$
        ELSE $$ FROM read_parquet(getvariable('mask_row_files'), union_by_name = true, filename = 'file') $$ END)) AS r
JOIN segments AS s ON s.place = r.place
JOIN (SELECT * EXCLUDE (file), parse_path(file)[-6:-5] AS entry
    FROM query(CASE WHEN getvariable('mask_files') IS NULL
        THEN $$ SELECT {MASK_COLUMNS}, NULL::VARCHAR AS file WHERE false $$
        ELSE $$ SELECT * EXCLUDE (bits)
                FROM read_parquet(getvariable('mask_files'), union_by_name = true, filename = 'file') $$ END)) AS t
ON t.entry = r.entry AND t.input_digest = r.input_digest AND t.slice = r.slice
JOIN (SELECT * EXCLUDE (file), parse_path(file)[-6:-5] AS entry, parse_path(file)[-3] AS made
    FROM query(CASE WHEN getvariable('prompt_files') IS NULL
        THEN $$ SELECT {PROMPT_COLUMNS}, NULL::VARCHAR AS file WHERE false $$
        ELSE $$ FROM read_parquet(getvariable('prompt_files'), union_by_name = true, filename = 'file') $$ END)) AS p
ON p.entry = r.entry AND p.input_digest = r.input_digest AND p.slice = r.slice AND p.class = t.class
JOIN samples ON samples.dataset = s.dataset AND samples.sample_id = r.sample_id AND samples.input_digest = t.image_digest
QUALIFY row_number() OVER (
    PARTITION BY s.model, s.dataset, s.key, r.sample_id, r.slice, p.class, p.prompt ORDER BY p.made DESC) = 1;
