-- What `clawsec audit stats` counts; only the columns that it needs are read.
WITH log AS MATERIALIZED (
  SELECT event, outcome, reason, src.ip AS source, "user", tool.name AS tool, count,
         count + coalesce(settles, 0) AS times
  FROM read_json(getenv('CLAWSEC_BENCH_LOG'), format = 'newline_delimited', columns = {
    event: 'VARCHAR', outcome: 'VARCHAR', reason: 'VARCHAR', src: 'STRUCT(ip VARCHAR)',
    "user": 'VARCHAR', tool: 'STRUCT("name" VARCHAR)', count: 'UBIGINT', settles: 'UBIGINT'})
), counted AS (
  SELECT 'totals' AS kind, event || '.' || outcome AS name, sum(count) AS count
  FROM log WHERE count > 0 GROUP BY ALL
  UNION ALL SELECT 'reasons', reason, sum(count) FROM log WHERE count > 0 GROUP BY ALL
  UNION ALL SELECT 'sources', source, sum(times) FROM log
  WHERE source IS NOT NULL AND times > 0 GROUP BY ALL
  UNION ALL SELECT 'users', "user", sum(times) FROM log
  WHERE "user" IS NOT NULL AND times > 0 GROUP BY ALL
  UNION ALL SELECT 'tools', tool, sum(times) FROM log
  WHERE tool IS NOT NULL AND times > 0 GROUP BY ALL
)
SELECT kind, name, count FROM counted
QUALIFY row_number() OVER (PARTITION BY kind ORDER BY count DESC, name) <= 10;
