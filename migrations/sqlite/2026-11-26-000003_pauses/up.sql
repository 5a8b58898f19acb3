-- 1: its executor has returned and is called again later, as far as is written. A worker that is lost meanwhile was not
-- lost by it.
ALTER TABLE jobs ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
