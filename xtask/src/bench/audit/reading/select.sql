-- The lines that the selective query finds.
SELECT line FROM read_csv(getenv('CLAWSEC_BENCH_LOG'), columns = {line: 'VARCHAR'},
                          delim = '', quote = '', escape = '', header = false)
WHERE json_extract_string(line, '$.user') = '+15550007919'
  AND json_extract_string(line, '$.outcome') = 'deny';
