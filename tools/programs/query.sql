-- SPDX-License-Identifier: Apache-2.0
-- A database whose pages all stay in sqlite's own cache, which is larger than all of it; temporary tables in memory.
-- Rows are of about 500 bytes and come in the order of their days: what is sorted and looked up row by row is a fault for
-- each row wherever it lies, and a million of short ones at random places would be nothing but faults.
PRAGMA cache_size = -500000;
PRAGMA temp_store = MEMORY;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE flight(
  id INTEGER PRIMARY KEY, day INTEGER, carrier TEXT, origin TEXT, delay INTEGER, note TEXT
);
WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM n WHERE i < 239999)
INSERT INTO flight
SELECT i, i / 658, 'C' || ((i * 31) % 16), 'AIRPORT-' || ((i * 104729) % 300),
  ((i * 1103515245 + 12345) % 2147483648) % 600 - 60,
  'delayed by weather at gate ' || (i % 97) || ', crew notified, rebooked via hub ' || ((i * 13) % 41)
    || ', ref ' || printf('%08x', (i * 2654435761) % 4294967296)
    || printf('; passengers told at %02d:%02d, %03d bags transferred, next leg operated by carrier C%02d from stand %03d',
      i % 24, i % 60, i % 211, i % 16, i % 137)
    || printf('; slot %05d given up, new slot %05d requested of the flow manager and confirmed at %02d:%02d',
      i % 65521, (i * 3) % 65521, (i + 1) % 24, (i + 7) % 60)
    || printf('; meals for %03d in class Y and %02d in class C loaded again, cabin checked by crew %04d',
      i % 189, i % 24, i % 4093)
FROM n;
CREATE INDEX by_origin ON flight(origin, day);
CREATE INDEX by_day ON flight(day, carrier, delay);
SELECT carrier, count(*), avg(delay), max(note) FROM flight GROUP BY carrier ORDER BY carrier;
SELECT origin, day, sum(delay) FROM flight WHERE day BETWEEN 100 AND 104
GROUP BY origin, day ORDER BY 3 DESC, 1, 2 LIMIT 50;
CREATE TEMP TABLE ranked AS SELECT id, note, delay FROM flight ORDER BY note;
SELECT count(*), sum(rowid * delay) FROM ranked;
UPDATE flight SET delay = delay + 1 WHERE day < 60;
DELETE FROM flight WHERE id % 5 = 0;
SELECT count(*), sum(delay), sum(id * day) FROM flight;
PRAGMA integrity_check;
